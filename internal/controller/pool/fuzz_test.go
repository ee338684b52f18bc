// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/internal/utils/recycling"
	"opensandbox.io/controller/test/wrappers"
)

// Whatever stands in a pool's template, it is refused in words, or its pods are the pool's: nothing in it sets what the controllers
// write, and it has one revision however it is spelt.
func FuzzPoolTemplate(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"spec":{"containers":[{"name":"c","image":"i"}]}}`,
		`{"metadata":{"labels":{"sandbox.opensandbox.io/pool-name":"other","pool.opensandbox.io/evict":""},` +
			`"annotations":{"sandbox.opensandbox.io/recycling":"{}"},"ownerReferences":[{"kind":"Pool","name":"other","controller":true}]},` +
			`"spec":{"containers":[{"name":"c"},{"name":"task-executor"}]}}`,
		`{"spec":{"restartPolicy":"Never","containers":[{"name":"task-executor","restartPolicyRules":[{}]},{"name":"c"}]}}`,
		`{"spec":{"containers":[{"name":"c","volumeMounts":[{"name":"v"}]}],"volumes":[{"name":"v","emptyDir":{"sizeLimit":"1e99"}}]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		pool := wrappers.MakePool(namespace, "p").Obj()
		pool.UID = "uid"
		pool.Spec.Template = &v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: raw}}
		template, err := podtemplate.Decode(pool.Spec.Template)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("refused without a word")
			}
			return
		}
		revision := podtemplate.Revision(pool.Spec.Template)
		pod := desiredPod(pool, template, revision, "p-00001")
		if pod.Name != "p-00001" || pod.Namespace != namespace || pod.UID != "" || len(pod.OwnerReferences) != 1 || !metav1.IsControlledBy(pod, pool) ||
			pod.Labels[v1alpha1.PoolNameLabel] != "p" || pod.Labels[v1alpha1.PoolRevisionLabel] != revision {
			t.Fatalf("template %s makes it somebody else's: %+v", raw, pod.ObjectMeta)
		}
		for _, key := range []string{v1alpha1.BatchNameLabel, v1alpha1.PodIndexLabel, v1alpha1.EvictLabel} {
			if _, has := pod.Labels[key]; has {
				t.Fatalf("template %s sets label %s", raw, key)
			}
		}
		for _, key := range ownAnnotations() {
			if _, has := pod.Annotations[key]; has {
				t.Fatalf("template %s sets annotation %s", raw, key)
			}
		}
		recycling.SpecObstacle(&pod.Spec)
		if again := desiredPod(pool, template, revision, "p-00001"); !cmp.Equal(pod, again) {
			t.Fatalf("template %s makes another pod the second time:\n%s", raw, cmp.Diff(pod, again))
		}
		var value any
		if err := json.Unmarshal(raw, &value); err != nil {
			t.Fatal(err)
		}
		spelt, err := json.MarshalIndent(value, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if got := podtemplate.Revision(&v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: spelt}}); got != revision {
			t.Fatalf("template %s has revision %s, and %s has %s", raw, revision, spelt, got)
		}
	})
}
