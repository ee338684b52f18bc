// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"sigs.k8s.io/yaml"
)

func testPlane(t *testing.T) *controlPlane {
	t.Helper()
	loopback := netip.MustParseAddr("127.0.0.1")
	return &controlPlane{
		cluster: testCluster(t, "render"), assets: "/assets", ports: kwokPorts(addresses{2}),
		bind: loopback, advertise: loopback, server: "https://127.0.0.1:21032",
	}
}

func TestAPIServerArguments(t *testing.T) {
	plane := testPlane(t)
	args := plane.apiserver().Args
	for _, want := range []string{
		"--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000", "--audit-log-mode=blocking", "--audit-log-format=json",
		"--audit-log-path=" + plane.path("audit.log"), "--authorization-mode=Node,RBAC", "--etcd-servers=https://127.0.0.1:21033",
		"--endpoint-reconciler-type=none",
	} {
		if !slices.Contains(args, want) {
			t.Errorf("%s is missing", want)
		}
	}
	plane.endpoint = true
	if slices.Contains(plane.apiserver().Args, "--endpoint-reconciler-type=none") {
		t.Error("a real node's API server must publish its address in the Service")
	}
}

func TestPortsOfTheControlPlaneDiffer(t *testing.T) {
	for name, p := range map[string]ports{"node": nodePorts, "kwok": kwokPorts(addresses{5})} {
		all := []int{p.apiserver, p.etcd, p.etcdPeer, p.controllerManager, p.scheduler}
		slices.Sort(all)
		if len(slices.Compact(all)) != 5 {
			t.Errorf("%s: two parts share a port: %+v", name, p)
		}
	}
}

// The kubeconfig, read back, opens a verified connection as the admin.
func TestKubeconfigHoldsAWorkingIdentity(t *testing.T) {
	plane := testPlane(t)
	if err := plane.writeCerts([]string{"127.0.0.1"}, "node", nil); err != nil {
		t.Fatal(err)
	}
	if err := plane.writeConfigs(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(plane.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Clusters[0].Cluster.Server != plane.server {
		t.Errorf("server is %q, want %q", got.Clusters[0].Cluster.Server, plane.server)
	}
	pair, err := tls.X509KeyPair(got.Users[0].User.Cert, got.Users[0].User.Key)
	if err != nil {
		t.Fatal(err)
	}
	if org := pair.Leaf.Subject.Organization; !slices.Equal(org, []string{"system:masters"}) {
		t.Errorf("organization %v, want system:masters", org)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(got.Clusters[0].Cluster.CA)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(plane.kubeconfig()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the kubeconfig is %v (%v), want it readable by its owner only", info.Mode(), err)
	}
	// etcd trusts no certificate of the API server's clients.
	etcd, err := os.ReadFile(plane.cert("etcd-ca"))
	if err != nil {
		t.Fatal(err)
	}
	etcdPool := x509.NewCertPool()
	etcdPool.AppendCertsFromPEM(etcd)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: etcdPool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the admin's certificate is good for etcd too")
	}
}

func TestHubPath(t *testing.T) {
	for ref, want := range map[string]string{
		"nginx:latest":               "library/nginx:latest",
		"nginx":                      "library/nginx:latest",
		"opensandbox/controller:dev": "opensandbox/controller:dev",
		"quay.io/a/b:c":              "",
		"Not A Name":                 "",
	} {
		got, err := hubPath(ref)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: got %q, %v; want %q", ref, got, err, want)
		}
	}
}

func TestCgroupMounts(t *testing.T) {
	const info = `30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 24 0:29 / /tmp rw - ext4 /dev/cgroup rw
`
	want := []string{"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified"}
	if got := cgroupMounts(info); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRemoveTreeTakesFoldersOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "group")
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "a", "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(dir); err == nil {
		t.Error("a folder with a file was removed")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("the folder is still there")
	}
	if err := removeTree(dir); err != nil {
		t.Error("removing what is gone:", err)
	}
}

// Kubernetes' staging modules are replaced one by one; their version follows from its own.
func TestStagingModulesFitKubernetes(t *testing.T) {
	file := filepath.Join("..", "kubernetes", "go.mod")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse(file, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	version, err := kubernetesComponent.version(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	want := "v0." + strings.TrimPrefix(version, "v1.")
	if len(mod.Replace) == 0 {
		t.Fatal("no module is replaced")
	}
	for _, r := range mod.Replace {
		if r.New.Path != r.Old.Path || r.New.Version != want {
			t.Errorf("%s is replaced by %s %s, want %s", r.Old.Path, r.New.Path, r.New.Version, want)
		}
	}
}

func TestParseUpRefusesBadFlags(t *testing.T) {
	for _, args := range [][]string{
		{"--cluster=minikube"}, {"--nodes=0"}, {"--nodes=1001"}, {"--pod-cidr=10.0.0.0"}, {"extra"},
	} {
		if _, err := parseUp(args); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
	if o, err := parseUp(nil); err != nil || o.kind != kindNode || o.nodes != 20 {
		t.Errorf("defaults are %+v, %v", o, err)
	}
}
