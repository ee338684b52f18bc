// SPDX-License-Identifier: Apache-2.0

package keyring

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/pkg/task-executor/token"
)

const namespace = "opensandbox-system"

var start = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)

func newKeyring(c client.WithWatch) *Keyring {
	return New(c, c, namespace, clocktesting.NewFakeClock(start))
}

func newClient(objects ...client.Object) client.WithWatch {
	return fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(objects...).Build()
}

func secretOf(t *testing.T, c client.Client) *corev1.Secret {
	t.Helper()
	secret := &corev1.Secret{}
	if err := c.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: v1alpha1.RootSecretName}, secret); err != nil {
		t.Fatal(err)
	}
	return secret
}

// believes says whether an executor that got its root from one keyring accepts the calls of another.
func believes(t *testing.T, executor, controller *Keyring) bool {
	t.Helper()
	der, err := base64.StdEncoding.DecodeString(executor.Root())
	if err != nil || len(der) == 0 {
		t.Fatalf("root %q: %v", executor.Root(), err)
	}
	raw, err := controller.Sign(token.Call{PodUID: "p", Method: "GET", Path: "/getTasks"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = token.NewVerifier(executor.signer.Load().Root(), "p", clocktesting.NewFakeClock(start)).Verify(raw)
	return err == nil
}

func TestTheNextControllerIsBelievedByTheExecutorsOfTheLast(t *testing.T) {
	c := newClient()
	first, second, other := newKeyring(c), newKeyring(c), newKeyring(newClient())
	for _, k := range []*Keyring{first, second, other} {
		if err := k.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if first.Root() != second.Root() || !believes(t, first, second) {
		t.Error("two controllers on one Secret have two roots")
	}
	if first.Root() == other.Root() || believes(t, first, other) {
		t.Error("a controller with another Secret is believed")
	}
	if secret := secretOf(t, c); secret.Type != corev1.SecretTypeTLS {
		t.Errorf("the Secret's type is %s", secret.Type)
	}
}

// The leader goes on with the root it has, through every turn of its signing key, and puts nothing back; who leads next makes
// another, or takes what was restored meanwhile.
func TestALeaderWhoseSecretIsDeletedGoesOnAndTheNextMakesAnother(t *testing.T) {
	for name, restored := range map[string]bool{"deleted": false, "restored from a backup": true} {
		t.Run(name, func(t *testing.T) {
			c := newClient()
			clk := clocktesting.NewFakeClock(start)
			leader := New(c, c, namespace, clk)
			if err := leader.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			backup := secretOf(t, c)
			if err := c.Delete(t.Context(), backup); err != nil {
				t.Fatal(err)
			}
			executor := token.NewVerifier(leader.signer.Load().Root(), "p", clk)
			for day := range 3 {
				raw, err := leader.Sign(token.Call{PodUID: "p", Method: "GET", Path: "/getTasks"})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := executor.Verify(raw); err != nil {
					t.Errorf("day %d: %v", day, err)
				}
				clk.Step(24 * time.Hour)
			}
			var secrets corev1.SecretList
			if err := c.List(t.Context(), &secrets); err != nil || len(secrets.Items) > 0 {
				t.Errorf("%d Secrets, %v, want none", len(secrets.Items), err)
			}
			if restored {
				if err := c.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: backup.Name}, Data: backup.Data}); err != nil {
					t.Fatal(err)
				}
			}
			next := newKeyring(c)
			if err := next.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			if same := next.Root() == leader.Root(); same != restored || believes(t, leader, next) != restored {
				t.Errorf("the next controller has the same root: %t, want %t", same, restored)
			}
		})
	}
}

func TestBeforeTheRootIsLoadedNothingIsSigned(t *testing.T) {
	k := newKeyring(newClient())
	if _, err := k.Sign(token.Call{}); err == nil {
		t.Error("signed")
	}
	if k.Root() != "" {
		t.Error("there is a root")
	}
}

func TestASecretThatCantBeUsedIsToldAndKept(t *testing.T) {
	good := newClient()
	if err := newKeyring(good).Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := newClient()
	if err := newKeyring(other).Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	key, certificate := secretOf(t, good).Data["tls.key"], secretOf(t, good).Data["tls.crt"]
	for name, data := range map[string]map[string][]byte{
		"empty":                          {},
		"no key":                         {"tls.crt": certificate},
		"no certificate":                 {"tls.key": key},
		"text for a key":                 {"tls.key": []byte("secret"), "tls.crt": certificate},
		"a certificate for a key":        {"tls.key": certificate, "tls.crt": certificate},
		"two keys":                       {"tls.key": append(append([]byte{}, key...), key...), "tls.crt": certificate},
		"the key of another certificate": {"tls.key": secretOf(t, other).Data["tls.key"], "tls.crt": certificate},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: v1alpha1.RootSecretName}, Data: data})
			before := secretOf(t, c).ResourceVersion
			err := newKeyring(c).Load(t.Context())
			if err == nil || !strings.Contains(err.Error(), v1alpha1.RootSecretName) || !strings.Contains(err.Error(), "delete it") {
				t.Errorf("error %v, want one that names the Secret and what to do", err)
			}
			if strings.Contains(err.Error(), "PRIVATE KEY-----") {
				t.Error("the error tells the key")
			}
			if secretOf(t, c).ResourceVersion != before {
				t.Error("the Secret was changed")
			}
		})
	}
}

func TestARootIsNeverUsedThatWasNotWritten(t *testing.T) {
	var lose func() error
	missing := apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, namespace)
	for name, tc := range map[string]struct {
		create  func(ctx context.Context, c client.WithWatch, obj client.Object) error
		wantErr bool
	}{
		"somebody else was faster": {create: func(ctx context.Context, c client.WithWatch, obj client.Object) error {
			if err := lose(); err != nil {
				return err
			}
			return c.Create(ctx, obj)
		}},
		"the reply was lost": {create: func(ctx context.Context, c client.WithWatch, obj client.Object) error {
			if err := c.Create(ctx, obj); err != nil {
				return err
			}
			return apierrors.NewTimeoutError("lost", 0)
		}, wantErr: true},
		"it is refused": {create: func(context.Context, client.WithWatch, client.Object) error {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, v1alpha1.RootSecretName, nil)
		}, wantErr: true},
		"the namespace is missing": {create: func(ctx context.Context, c client.WithWatch, obj client.Object) error {
			if _, ok := obj.(*corev1.Secret); ok {
				if err := c.Get(ctx, types.NamespacedName{Name: namespace}, &corev1.Namespace{}); err != nil {
					return missing
				}
			}
			return c.Create(ctx, obj)
		}},
		"the namespace is missing and may not be made": {create: func(_ context.Context, _ client.WithWatch, obj client.Object) error {
			if _, ok := obj.(*corev1.Secret); ok {
				return missing
			}
			return apierrors.NewForbidden(schema.GroupResource{Resource: "namespaces"}, namespace, nil)
		}, wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient()
			rival := newKeyring(c)
			lose = func() error { return rival.Load(t.Context()) }
			k := newKeyring(interceptor.NewClient(c, interceptor.Funcs{
				Create: func(ctx context.Context, c client.WithWatch, obj client.Object, _ ...client.CreateOption) error {
					return tc.create(ctx, c, obj)
				},
			}))
			err := k.Load(t.Context())
			if (err != nil) != tc.wantErr {
				t.Fatalf("error %v, want one: %t", err, tc.wantErr)
			}
			if err != nil && k.Root() != "" {
				t.Error("a root is used all the same")
			}
			again := newKeyring(c)
			if err := again.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			if k.Root() != "" && k.Root() != again.Root() {
				t.Error("the root that is used is not the one that was written")
			}
		})
	}
}
