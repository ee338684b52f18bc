// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
)

const maxNodes = 1000

// kwokPart simulates every node and pod of the cluster. It listens beside the control plane's ports.
func (p *controlPlane) kwok(podCIDR netip.Prefix, port int) part {
	args := []string{
		"--kubeconfig=" + p.config("kwok.kubeconfig"),
		"--manage-all-nodes=true",
		"--cidr=" + podCIDR.String(),
		"--node-ip=127.0.0.1",
		"--node-port=" + strconv.Itoa(port),
		fmt.Sprintf("--server-address=127.0.0.1:%d", port),
		"--tls-cert-file=" + p.cert("kwok"),
		"--tls-private-key-file=" + p.key("kwok"),
		"--node-lease-duration-seconds=40",
		"--config=" + p.config("kwok.yaml"),
	}
	for _, stage := range []string{"node-initialize", "node-heartbeat-with-lease", "pod-ready", "pod-complete", "pod-delete"} {
		args = append(args, "--config="+filepath.Join(p.assets, "stages", stage+".yaml"))
	}
	return part{Name: "kwok", Path: filepath.Join(p.assets, "kwok"), Args: args}
}

// kwokConfig lets more pods change at once than the default of 4, for thousands of them. With a configuration kwok
// applies none of its own defaults, so every number it checks stands here.
func kwokConfig() object {
	return object{
		"apiVersion": "config.kwok.x-k8s.io/v1alpha1",
		"kind":       "KwokConfiguration",
		"options": object{
			"podPlayStageParallelism":   16,
			"nodePlayStageParallelism":  4,
			"nodeLeaseParallelism":      4,
			"podsOnNodeSyncParallelism": 4,
			// A node with this annotation keeps the status that a test gives it; its pods are simulated as before.
			"disregardStatusWithAnnotationSelector": "kwok.x-k8s.io/status=custom",
			"enableDebuggingHandlers":               true,
			"enablePodsOnNodeSyncListPager":         false,
			"enablePodsOnNodeSyncStreamWatch":       true,
		},
	}
}

// simulatedNode is a node that has room for as many pods as tests will want.
func simulatedNode(i int) object {
	name := fmt.Sprintf("kwok-node-%d", i)
	resources := object{"cpu": "256", "memory": "1Ti", "pods": "2000"}
	return object{
		"apiVersion": "v1",
		"kind":       "Node",
		"metadata": object{"name": name, "labels": object{
			"kubernetes.io/hostname": name,
			"kubernetes.io/os":       "linux",
			"kubernetes.io/arch":     "amd64",
			"type":                   "kwok",
		}},
		"status": object{"allocatable": resources, "capacity": resources},
	}
}

func (c *client) createNodes(ctx context.Context, n int) error {
	for i := range n {
		if err := c.create(ctx, "/api/v1/nodes", simulatedNode(i)); err != nil {
			return err
		}
	}
	return nil
}
