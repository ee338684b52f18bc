// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"sigs.k8s.io/yaml"
)

// ports of the control plane.
type ports struct {
	apiserver, etcd, etcdPeer, controllerManager, scheduler int
}

// A real node has a network namespace of its own, so the usual ports are free there.
var nodePorts = ports{apiserver: 6443, etcd: 2379, etcdPeer: 2380, controllerManager: 10257, scheduler: 10259}

func kwokPorts(a addresses) ports {
	return ports{apiserver: a.port(0), etcd: a.port(1), etcdPeer: a.port(2), controllerManager: a.port(3), scheduler: a.port(4)}
}

// controlPlane renders the command lines of etcd, API server, controller manager and scheduler. It decides nothing else.
type controlPlane struct {
	*cluster
	assets    string
	ports     ports
	bind      netip.Addr // where the API server listens
	advertise netip.Addr // how others reach it
	// endpoint tells whether the Service "kubernetes" gets the advertised address; a loopback one is not allowed there.
	endpoint bool
	server   string // where the host reaches the API server
}

// url is where the cluster's own parts reach the API server.
func (p *controlPlane) url() string {
	return "https://" + netip.AddrPortFrom(p.advertise, uint16(p.ports.apiserver)).String()
}

func (p *controlPlane) etcd() part {
	client := fmt.Sprintf("https://127.0.0.1:%d", p.ports.etcd)
	peer := fmt.Sprintf("http://127.0.0.1:%d", p.ports.etcdPeer)
	return part{Name: "etcd", Path: filepath.Join(p.assets, "etcd"), Args: []string{
		"--name=local",
		"--data-dir=" + p.path("etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=local=" + peer,
		"--client-cert-auth=true",
		"--trusted-ca-file=" + p.cert("etcd-ca"),
		"--cert-file=" + p.cert("etcd"),
		"--key-file=" + p.key("etcd"),
		"--quota-backend-bytes=" + strconv.Itoa(8<<30),
		"--auto-compaction-retention=5m",
		"--log-level=warn",
		"--unsafe-no-fsync", // the data lives as long as the cluster
	}}
}

func (p *controlPlane) apiserver() part {
	args := []string{
		"--bind-address=" + p.bind.String(),
		"--advertise-address=" + p.advertise.String(),
		"--secure-port=" + strconv.Itoa(p.ports.apiserver),
		"--tls-cert-file=" + p.cert("apiserver"),
		"--tls-private-key-file=" + p.key("apiserver"),
		"--client-ca-file=" + p.cert("ca"),
		fmt.Sprintf("--etcd-servers=https://127.0.0.1:%d", p.ports.etcd),
		"--etcd-cafile=" + p.cert("etcd-ca"),
		"--etcd-certfile=" + p.cert("etcd-client"),
		"--etcd-keyfile=" + p.key("etcd-client"),
		"--service-cluster-ip-range=" + services.String(),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + p.path("pki", "service-account.pub"),
		"--service-account-signing-key-file=" + p.key("service-account"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-certificate-authority=" + p.cert("ca"),
		"--kubelet-client-certificate=" + p.cert("apiserver-kubelet"),
		"--kubelet-client-key=" + p.key("apiserver-kubelet"),
		"--max-requests-inflight=2000",
		"--max-mutating-requests-inflight=1000",
		"--audit-policy-file=" + p.config("audit-policy.yaml"),
		"--audit-log-path=" + p.path("audit.log"),
		"--audit-log-format=json",
		"--audit-log-mode=blocking",
		"--audit-log-maxsize=65536", // MiB: tests read one file, so it must not be rotated
		"--profiling=true",
	}
	if !p.endpoint {
		args = append(args, "--endpoint-reconciler-type=none")
	}
	return part{Name: "kube-apiserver", Path: filepath.Join(p.assets, "kube-apiserver"), Args: args}
}

func (p *controlPlane) controllerManager() part {
	return part{Name: "kube-controller-manager", Path: filepath.Join(p.assets, "kube-controller-manager"), Args: []string{
		"--kubeconfig=" + p.config("controller-manager.kubeconfig"),
		"--authentication-kubeconfig=" + p.config("controller-manager.kubeconfig"),
		"--authorization-kubeconfig=" + p.config("controller-manager.kubeconfig"),
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(p.ports.controllerManager),
		"--tls-cert-file=" + p.cert("controller-manager"),
		"--tls-private-key-file=" + p.key("controller-manager"),
		"--client-ca-file=" + p.cert("ca"),
		"--root-ca-file=" + p.cert("ca"),
		"--service-account-private-key-file=" + p.key("service-account"),
		"--use-service-account-credentials=true",
		"--leader-elect=false",
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
	}}
}

func (p *controlPlane) scheduler() part {
	return part{Name: "kube-scheduler", Path: filepath.Join(p.assets, "kube-scheduler"), Args: []string{
		"--config=" + p.config("scheduler.yaml"),
		"--authentication-kubeconfig=" + p.config("scheduler.kubeconfig"),
		"--authorization-kubeconfig=" + p.config("scheduler.kubeconfig"),
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(p.ports.scheduler),
		"--tls-cert-file=" + p.cert("scheduler"),
		"--tls-private-key-file=" + p.key("scheduler"),
		"--client-ca-file=" + p.cert("ca"),
	}}
}

// object is YAML in the making.
type object map[string]any

// auditPolicy records who did what to which object, once per request, when it is over. Bodies are not recorded.
func auditPolicy() object {
	return object{
		"apiVersion": "audit.k8s.io/v1",
		"kind":       "Policy",
		"omitStages": []string{"RequestReceived"},
		"rules": []object{
			{"level": "None", "nonResourceURLs": []string{"/readyz*", "/livez*", "/healthz*"}},
			{"level": "Metadata"},
		},
	}
}

func schedulerConfig(kubeconfig string) object {
	return object{
		"apiVersion":       "kubescheduler.config.k8s.io/v1",
		"kind":             "KubeSchedulerConfiguration",
		"clientConnection": object{"kubeconfig": kubeconfig, "qps": 1000, "burst": 2000},
		"leaderElection":   object{"leaderElect": false},
	}
}

// kubeconfigFor renders a kubeconfig with the certificates inside, so that it can be copied anywhere.
func kubeconfigFor(server string, ca, cert, key []byte) object {
	const name = "opensandbox-local"
	return object{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": name,
		"clusters":        []object{{"name": name, "cluster": object{"server": server, "certificate-authority-data": ca}}},
		"users":           []object{{"name": name, "user": object{"client-certificate-data": cert, "client-key-data": key}}},
		"contexts":        []object{{"name": name, "context": object{"cluster": name, "user": name}}},
	}
}

func (p *controlPlane) writeKubeconfig(path, identity string) error {
	return p.writeKubeconfigAt(p.url(), path, identity)
}

func (p *controlPlane) writeKubeconfigAt(server, path, identity string) error {
	ca, err1 := os.ReadFile(p.cert("ca"))
	cert, err2 := os.ReadFile(p.cert(identity))
	key, err3 := os.ReadFile(p.key(identity))
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	return writeYAML(path, kubeconfigFor(server, ca, cert, key))
}

func (p *controlPlane) writeConfigs() error {
	return errors.Join(
		writeYAML(p.config("audit-policy.yaml"), auditPolicy()),
		writeYAML(p.config("scheduler.yaml"), schedulerConfig(p.config("scheduler.kubeconfig"))),
		p.writeKubeconfig(p.config("controller-manager.kubeconfig"), "controller-manager"),
		p.writeKubeconfig(p.config("scheduler.kubeconfig"), "scheduler"),
		p.writeKubeconfigAt(p.server, p.kubeconfig(), "admin"),
	)
}

func writeYAML(path string, o object) error {
	data, err := yaml.Marshal(o)
	if err != nil {
		return err
	}
	return writeFile(path, data, 0o600)
}
