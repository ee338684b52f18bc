// SPDX-License-Identifier: Apache-2.0

// Package keyring keeps the root of the tokens by which task-executors know the controller: one Secret, made when it is
// missing, and signing keys certified by it that never leave memory.
package keyring

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/pkg/task-executor/token"
)

// Keyring signs the calls of executors once Load has found or made the root. It is safe for concurrent use.
type Keyring struct {
	reader    client.Reader
	writer    client.Writer
	namespace string
	clock     clock.PassiveClock
	signer    atomic.Pointer[token.Signer]
}

// New returns a keyring whose Secret is in this namespace. The reader must not be a cache: the controller may read this one
// Secret and no other.
func New(reader client.Reader, writer client.Writer, namespace string, clk clock.PassiveClock) *Keyring {
	return &Keyring{reader: reader, writer: writer, namespace: namespace, clock: clk}
}

// errNotLoaded says that Load has not succeeded yet.
var errNotLoaded = errors.New("the root of the tokens is not loaded yet")

// Sign returns the token of one call.
func (k *Keyring) Sign(call token.Call) (string, error) {
	signer := k.signer.Load()
	if signer == nil {
		return "", errNotLoaded
	}
	return signer.Sign(call)
}

// Root is what executors get to know the controller by: the root's certificate as base64 of its DER form. It is "" before
// Load.
func (k *Keyring) Root() string {
	signer := k.signer.Load()
	if signer == nil {
		return ""
	}
	return base64.StdEncoding.EncodeToString(signer.Root().Raw)
}

// Load reads the root from its Secret, or makes both. A Secret that can't be used is an error, and stays as it is: executors
// that know its root would obey no other.
func (k *Keyring) Load(ctx context.Context) error {
	root, err := k.find(ctx)
	if apierrors.IsNotFound(err) {
		root, err = k.make(ctx)
	}
	if apierrors.IsAlreadyExists(err) { // somebody else was faster, or our reply was lost
		root, err = k.find(ctx)
	}
	if err != nil {
		return err
	}
	signer, err := token.NewSigner(root, k.clock)
	if err != nil {
		return fmt.Errorf("use Secret %s: %w; repair it, or delete it to have a new one made and all idle pods replaced", k.name(), err)
	}
	k.signer.Store(signer)
	return nil
}

func (k *Keyring) name() types.NamespacedName {
	return types.NamespacedName{Namespace: k.namespace, Name: v1alpha1.RootSecretName}
}

func (k *Keyring) find(ctx context.Context) (token.Root, error) {
	secret := &corev1.Secret{}
	if err := k.reader.Get(ctx, k.name(), secret); err != nil {
		return token.Root{}, fmt.Errorf("get Secret %s: %w", k.name(), err)
	}
	root, err := decode(secret.Data)
	if err != nil {
		return token.Root{}, fmt.Errorf("read Secret %s: %w; repair it, or delete it to have a new one made and all idle pods replaced", k.name(), err)
	}
	return root, nil
}

// make makes a root and writes it down before anybody uses it. Out of a cluster the namespace may be missing too.
func (k *Keyring) make(ctx context.Context) (token.Root, error) {
	root, err := token.NewRoot(k.clock.Now())
	if err != nil {
		return token.Root{}, err
	}
	data, err := encode(root)
	if err != nil {
		return token.Root{}, err
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: k.namespace, Name: v1alpha1.RootSecretName},
		Type:       corev1.SecretTypeTLS,
		Data:       data,
	}
	err = k.writer.Create(ctx, secret.DeepCopy())
	if apierrors.IsNotFound(err) {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: k.namespace}}
		if err := k.writer.Create(ctx, namespace); err != nil && !apierrors.IsAlreadyExists(err) {
			return token.Root{}, fmt.Errorf("create namespace %s for the controller's Secret: %w; create it, or choose another with --namespace", k.namespace, err)
		}
		err = k.writer.Create(ctx, secret)
	}
	if err != nil {
		return token.Root{}, fmt.Errorf("create Secret %s: %w", k.name(), err)
	}
	return root, nil
}

// encode writes a root in the form of a Secret of type kubernetes.io/tls.
func encode(root token.Root) (map[string][]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(root.Key)
	if err != nil {
		return nil, fmt.Errorf("encode the root key: %w", err)
	}
	return map[string][]byte{
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate.Raw}),
	}, nil
}

// decode is the reverse of encode.
func decode(data map[string][]byte) (token.Root, error) {
	keyDER, err := single(data, corev1.TLSPrivateKeyKey, "PRIVATE KEY")
	if err != nil {
		return token.Root{}, err
	}
	certDER, err := single(data, corev1.TLSCertKey, "CERTIFICATE")
	if err != nil {
		return token.Root{}, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return token.Root{}, fmt.Errorf("member %s: %w", corev1.TLSPrivateKeyKey, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return token.Root{}, fmt.Errorf("member %s is a key of another kind than Ed25519", corev1.TLSPrivateKeyKey)
	}
	certificate, err := x509.ParseCertificate(certDER)
	if err != nil {
		return token.Root{}, fmt.Errorf("member %s: %w", corev1.TLSCertKey, err)
	}
	return token.Root{Key: key, Certificate: certificate}, nil
}

// single is the content of a member that is one PEM block of this type.
func single(data map[string][]byte, member, kind string) ([]byte, error) {
	block, rest := pem.Decode(data[member])
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("member %s is not one PEM block of type %s", member, kind)
	}
	return block.Bytes, nil
}
