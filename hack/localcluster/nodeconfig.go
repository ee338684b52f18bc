// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// nodeConfig renders the configuration of a real node's parts. It decides nothing else.
type nodeConfig struct {
	*cluster
	assets string
	addr   addresses
}

func (n *nodeConfig) registry() part {
	return part{Name: "registry", Path: n.path("localcluster"), Args: []string{
		"serve-registry", fmt.Sprintf("--listen=127.0.0.1:%d", registryPort), "--dir=" + n.path("node", "registry"),
	}}
}

func (n *nodeConfig) containerd() part {
	return part{
		Name: "containerd",
		Path: filepath.Join(n.assets, "containerd"),
		Args: []string{"--config=" + n.config("containerd.toml")},
		// It looks for its shim, and the shim for runc, in PATH.
		Env: []string{"PATH=" + n.assets + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
}

// containerdConfig: images of Docker Hub come from the registry on loopback. OOM scores are left alone, since root may
// lack the right to lower them; AppArmor is off, since its profile would stay in the kernel after the node.
func (n *nodeConfig) containerdConfig(runc string) string {
	return fmt.Sprintf(`version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]

[grpc]
  address = %[1]q

[plugins.'io.containerd.internal.v1.opt']
  path = %[2]q

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = %[3]q
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = %[4]q

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = %[5]q
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = %[6]q
        SystemdCgroup = false
`, containerdSocket, n.path("node", "opt"), "docker.io/"+pauseImage, n.config(certsD), n.config("cni"), runc)
}

// hostsConfig names the registry as the only source: an image it lacks is said to be missing at once.
func hostsConfig() string {
	url := fmt.Sprintf("http://127.0.0.1:%d", registryPort)
	return fmt.Sprintf("server = %[1]q\n\n[host.%[1]q]\n  capabilities = [\"pull\", \"resolve\"]\n", url)
}

// cniConfig routes between pods instead of bridging: so packets between two pods of this node pass the Services' rules
// without br_netfilter, a module that not every kernel has.
func (n *nodeConfig) cniConfig() object {
	return object{
		"cniVersion": "1.0.0",
		"name":       "pods",
		"plugins": []object{
			{
				"type":   "ptp",
				"ipMasq": false,
				"ipam": object{
					"type":    "host-local",
					"dataDir": "/run/cni/networks",
					"ranges":  [][]object{{{"subnet": n.addr.pods().String()}}},
					"routes":  []object{{"dst": "0.0.0.0/0"}},
				},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}
}

func (n *nodeConfig) kubelet() part {
	return part{Name: "kubelet", Path: filepath.Join(n.assets, "kubelet"), Args: []string{
		"--config=" + n.config("kubelet.yaml"),
		"--kubeconfig=" + n.config("kubelet.kubeconfig"),
		"--hostname-override=" + nodeName,
		"--node-ip=" + n.addr.node().String(),
	}}
}

// kubeletConfig: disk limits are low and images are kept, since a developer's machine is often nearly full.
func (n *nodeConfig) kubeletConfig() object {
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"address":    "0.0.0.0",
		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": n.cert("ca")},
		},
		"authorization":                 object{"mode": "Webhook"},
		"tlsCertFile":                   n.cert("kubelet"),
		"tlsPrivateKeyFile":             n.key("kubelet"),
		"containerRuntimeEndpoint":      "unix://" + containerdSocket,
		"cgroupDriver":                  "cgroupfs",
		"cgroupRoot":                    n.cgroup(),
		"failCgroupV1":                  false,
		"failSwapOn":                    false,
		"clusterDomain":                 "cluster.local",
		"clusterDNS":                    []string{services.Addr().Next().Next().String()},
		"resolvConf":                    n.config("resolv.conf"),
		"evictionHard":                  object{"memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
		"imageGCHighThresholdPercent":   100,
		"imageGCLowThresholdPercent":    99,
		"maxPods":                       500,
		"oomScoreAdj":                   0,
		"serializeImagePulls":           false,
		"registryPullQPS":               0,
		"eventRecordQPS":                0,
		"kubeAPIQPS":                    200,
		"kubeAPIBurst":                  400,
		"volumePluginDir":               n.path("node", "volume-plugins"),
		"protectKernelDefaults":         false,
		"localStorageCapacityIsolation": true,
	}
}

func (n *nodeConfig) proxy() part {
	return part{Name: "kube-proxy", Path: filepath.Join(n.assets, "kube-proxy"), Args: []string{"--config=" + n.config("proxy.yaml")}}
}

// proxyConfig leaves the kernel's conntrack limits alone: they are the host's.
func (n *nodeConfig) proxyConfig() object {
	return object{
		"apiVersion":         "kubeproxy.config.k8s.io/v1alpha1",
		"kind":               "KubeProxyConfiguration",
		"clientConnection":   object{"kubeconfig": n.config("proxy.kubeconfig")},
		"mode":               "iptables",
		"hostnameOverride":   nodeName,
		"clusterCIDR":        n.addr.pods().String(),
		"healthzBindAddress": "127.0.0.1:10256",
		"metricsBindAddress": "127.0.0.1:10249",
		"oomScoreAdj":        0,
		"conntrack":          object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
}

func writeJSON(path string, o object) error {
	data, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, data, os.FileMode(0o644))
}
