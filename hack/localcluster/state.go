// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// state is what a later command must know about a cluster. It is written before the first process starts, so that
// `down` can clean up after a crash at any moment.
type state struct {
	Name     string `json:"name"`
	Checkout string `json:"checkout"`
	Kind     string `json:"kind"`
	// Slot is a small number that no other cluster of this user has; addresses and ports follow from it.
	Slot int `json:"slot"`
	// Ready is set once `up` has seen everything work.
	Ready bool `json:"ready"`
	// Supervisor is the parent of all parts.
	Supervisor process `json:"supervisor"`
}

func (s *state) alive() bool { return s.Kind == kindKind || s.Supervisor.alive() }

// load returns nil without an error if there is no such cluster.
func (c *cluster) load() (*state, error) { return loadState(c.path("state.json")) }

func loadState(path string) (*state, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read %s: %w; remove the folder if `down` can't", path, err)
	}
	return &s, nil
}

func (c *cluster) save(s *state) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(c.path("state.json"), append(data, '\n'), 0o600)
}

const (
	maxSlots     = 64
	firstPort    = 21000 // below Linux' ephemeral ports, so that no outgoing connection takes one between choice and use
	portsPerSlot = 16
)

// addresses are all the numbers of one cluster.
type addresses struct {
	slot int
}

// Ports of a cluster with simulated nodes, on the host's loopback.
func (a addresses) port(i int) int { return firstPort + a.slot*portsPerSlot + i }

// pods is the address range of a real node's pods: 1,022 of them.
func (a addresses) pods() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 213, byte(a.slot * 4), 0}), 22)
}

// uplink holds two addresses: .1 is the host, .2 the node.
func (a addresses) uplink() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 214, byte(a.slot), 0}), 30)
}

func (a addresses) host() netip.Addr { return a.uplink().Addr().Next() }
func (a addresses) node() netip.Addr { return a.host().Next() }

// services is the same in every cluster: it never leaves the node's own network namespace.
var services = netip.MustParsePrefix("10.96.0.0/16")

// apiService is the address of the Service "kubernetes".
var apiService = services.Addr().Next()

// claimSlot writes s with the lowest slot that no other cluster has and whose ports and addresses are free here.
func (c *cluster) claimSlot(s *state) error {
	unlock, err := lock(filepath.Join(c.clusters(), ".slots.lock"), func() {})
	if err != nil {
		return err
	}
	defer unlock()
	taken, err := takenSlots(c.clusters())
	if err != nil {
		return err
	}
	local, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for slot := range maxSlots {
		if slices.Contains(taken, slot) || !slotIsFree(addresses{slot}, s.Kind, local) {
			continue
		}
		s.Slot = slot
		return c.save(s)
	}
	return fmt.Errorf("no free ports or addresses for one more cluster (of at most %d): `down --all` in a checkout stops its clusters", maxSlots)
}

func takenSlots(dir string) ([]int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "state.json"))
	if err != nil {
		return nil, err
	}
	var taken []int
	for _, f := range files {
		s, err := loadState(f)
		if err != nil {
			return nil, err
		}
		if s != nil { // it may have gone just now
			taken = append(taken, s.Slot)
		}
	}
	return taken, nil
}

func slotIsFree(a addresses, kind string, local []net.Addr) bool {
	if !portsFree(a) {
		return false
	}
	if kind != kindNode {
		return true
	}
	for _, addr := range local {
		p, err := netip.ParsePrefix(addr.String())
		if err == nil && (p.Overlaps(a.pods()) || p.Overlaps(a.uplink())) {
			return false
		}
	}
	return true
}

func portsFree(a addresses) bool {
	for i := range portsPerSlot {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", a.port(i)))
		if err != nil {
			return false
		}
		if l.Close() != nil {
			return false
		}
	}
	return true
}
