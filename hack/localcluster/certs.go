// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// authority signs the certificates of one cluster, which lives for hours; they hold for a year.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// identity is what a certificate says.
type identity struct {
	commonName    string
	organizations []string
	hosts         []string // names and addresses; with any, the certificate is good for serving too
}

func newAuthority(commonName string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := certificate(identity{commonName: commonName})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.ExtKeyUsage = nil
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert: cert, key: key}, err
}

func certificate(id identity) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	cert := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: id.commonName, Organization: id.organizations},
		NotBefore:    now.Add(-time.Hour), // clocks of containers and host are one, but a machine's may step back
		NotAfter:     now.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, h := range id.hosts {
		if ip := net.ParseIP(h); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, h)
		}
	}
	if len(id.hosts) > 0 {
		cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	return cert, nil
}

func (a *authority) certPEM() []byte { return encodePEM("CERTIFICATE", a.cert.Raw) }

// issue returns a new key and a certificate over it, both PEM.
func (a *authority) issue(id identity) (certPEM, keyPEM []byte, err error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	template, err := certificate(id)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the certificate of %s: %w", id.commonName, err)
	}
	return encodePEM("CERTIFICATE", der), keyPEM, nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, encodePEM("EC PRIVATE KEY", der), nil
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// writeCerts makes two authorities (etcd trusts only its own, so that no client of the API server can pass it by) and
// everyone's certificates, and the key pair that signs service account tokens.
func (c *cluster) writeCerts(hosts []string, node string, nodeHosts []string) error {
	ca, err := newAuthority("opensandbox-local")
	if err != nil {
		return err
	}
	etcdCA, err := newAuthority("opensandbox-local-etcd")
	if err != nil {
		return err
	}
	writes := []error{
		writeFile(c.cert("ca"), ca.certPEM(), 0o644),
		writeFile(c.cert("etcd-ca"), etcdCA.certPEM(), 0o644),
		c.issue(etcdCA, "etcd", identity{commonName: "etcd", hosts: []string{"127.0.0.1", "localhost"}}),
		c.issue(etcdCA, "etcd-client", identity{commonName: "kube-apiserver"}),
	}
	admins := []string{"system:masters"}
	for name, id := range map[string]identity{
		"apiserver":          {commonName: "kube-apiserver", hosts: hosts},
		"apiserver-kubelet":  {commonName: "kube-apiserver-kubelet-client", organizations: admins},
		"admin":              {commonName: "admin", organizations: admins},
		"controller-manager": {commonName: "system:kube-controller-manager", hosts: []string{"127.0.0.1", "localhost"}},
		"scheduler":          {commonName: "system:kube-scheduler", hosts: []string{"127.0.0.1", "localhost"}},
		"kwok":               {commonName: "kwok", organizations: admins, hosts: []string{"127.0.0.1"}},
		"kubelet":            {commonName: "system:node:" + node, organizations: []string{"system:nodes"}, hosts: nodeHosts},
		"proxy":              {commonName: "system:kube-proxy"},
	} {
		writes = append(writes, c.issue(ca, name, id))
	}
	signer, keyPEM, err := newKey()
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return err
	}
	writes = append(writes,
		writeFile(c.key("service-account"), keyPEM, 0o600),
		writeFile(c.path("pki", "service-account.pub"), encodePEM("PUBLIC KEY", public), 0o644))
	return errors.Join(writes...)
}

func (c *cluster) issue(a *authority, name string, id identity) error {
	certPEM, keyPEM, err := a.issue(id)
	if err != nil {
		return err
	}
	return errors.Join(writeFile(c.cert(name), certPEM, 0o644), writeFile(c.key(name), keyPEM, 0o600))
}
