// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
)

func TestSlotsShareNothing(t *testing.T) {
	var prefixes []netip.Prefix
	ports := map[int]int{}
	for slot := range maxSlots {
		a := addresses{slot}
		for _, p := range []netip.Prefix{a.pods(), a.uplink()} {
			if p != p.Masked() {
				t.Errorf("slot %d: %s has host bits set", slot, p)
			}
			for _, other := range append(prefixes, services) {
				if p.Overlaps(other) {
					t.Errorf("slot %d: %s overlaps %s", slot, p, other)
				}
			}
			prefixes = append(prefixes, p)
		}
		if !a.uplink().Contains(a.host()) || !a.uplink().Contains(a.node()) || a.host() == a.node() {
			t.Errorf("slot %d: host %s and node %s are not two addresses of %s", slot, a.host(), a.node(), a.uplink())
		}
		for i := range portsPerSlot {
			port := a.port(i)
			if other, ok := ports[port]; ok {
				t.Errorf("slots %d and %d share port %d", slot, other, port)
			}
			if port >= 32768 {
				t.Errorf("slot %d: port %d is one of Linux' ephemeral ports", slot, port)
			}
			ports[port] = slot
		}
	}
}

func TestClaimSlot(t *testing.T) {
	first := testCluster(t, "first")
	second := &cluster{layout: first.layout, name: "second"}
	one, two := &state{Name: "first", Kind: kindKwok}, &state{Name: "second", Kind: kindKwok}
	if err := first.claimSlot(one); err != nil {
		t.Fatal(err)
	}
	if err := second.claimSlot(two); err != nil {
		t.Fatal(err)
	}
	if one.Slot == two.Slot {
		t.Errorf("both clusters have slot %d", one.Slot)
	}
	// A port that something else has keeps the slot from being chosen.
	third := testCluster(t, "third")
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", addresses{one.Slot}.port(3)))
	if err != nil {
		t.Skip("the port was taken meanwhile:", err)
	}
	defer closeInto(l, &err)
	three := &state{Name: "third", Kind: kindKwok}
	if err := third.claimSlot(three); err != nil {
		t.Fatal(err)
	}
	if three.Slot == one.Slot {
		t.Errorf("slot %d was chosen though one of its ports is taken", three.Slot)
	}
	got, err := third.load()
	if err != nil || got == nil || got.Slot != three.Slot {
		t.Errorf("state was not saved: %+v, %v", got, err)
	}
}

func TestSlotIsNotFreeWhereTheHostHasItsAddresses(t *testing.T) {
	a := addresses{maxSlots - 1}
	for text, want := range map[string]bool{
		"10.0.0.1/8":                     false, // covers everything
		a.pods().Addr().String() + "/32": false,
		a.host().String() + "/30":        false,
		"192.0.2.1/24":                   true,
		"fe80::1/64":                     true,
	} {
		p := netip.MustParsePrefix(text)
		local := []net.Addr{&net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if got := slotIsFree(a, kindNode, local); got != want {
			t.Errorf("with %s on the host: free %v, want %v", text, got, want)
		}
	}
}
