// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"opensandbox.io/controller/api/v1alpha1"
	apply "opensandbox.io/controller/pkg/client/applyconfiguration/api/v1alpha1"
	"opensandbox.io/controller/pkg/client/clientset/versioned"
	"opensandbox.io/controller/pkg/client/informers/externalversions"
)

func applied(json string) *apply.RawObjectApplyConfiguration {
	return &apply.RawObjectApplyConfiguration{RawExtension: runtime.RawExtension{Raw: []byte(json)}}
}

// What the examples of pkg/client do, and what they leave out.
func TestTheGeneratedClientsWorkWithAnAPIServer(t *testing.T) {
	s := newSpace(t)
	s.startProcesses()
	s.startController("")
	clients, err := versioned.NewForConfig(s.config)
	s.must(err)
	pools, batches := clients.SandboxV1alpha1().Pools(s.name), clients.SandboxV1alpha1().BatchSandboxes(s.name)

	force := metav1.ApplyOptions{FieldManager: "test", Force: true}
	_, err = pools.Apply(s.ctx, apply.Pool("p", s.name).WithSpec(apply.PoolSpec().
		WithTemplate(applied(simpleTemplate)).
		WithCapacitySpec(apply.CapacitySpec().WithBufferMin(1).WithBufferMax(2).WithPoolMin(0).WithPoolMax(9))), force)
	s.must(err)
	wanted := apply.BatchSandbox("b", s.name).WithSpec(apply.BatchSandboxSpec().WithPoolRef("p").WithReplicas(2).
		WithTaskTemplate(apply.TaskTemplate().WithSpec(apply.TaskSpec().WithProcess(apply.Process().WithCommand("true")))).
		WithShardTaskPatches(applied(`{}`), applied(`{"spec":{"timeoutSeconds":7}}`)))
	_, err = batches.Apply(s.ctx, wanted, force)
	s.must(err)

	scale, err := batches.GetScale(s.ctx, "b", metav1.GetOptions{})
	s.must(err)
	if scale.Spec.Replicas != 2 {
		t.Errorf("the scale is %d, want 2", scale.Spec.Replicas)
	}
	scale.Spec.Replicas = 3
	_, err = batches.UpdateScale(s.ctx, "b", scale, metav1.UpdateOptions{})
	s.must(err)
	sb := s.delivered("b", 3)
	if got := string(sb.Spec.ShardTaskPatches[1].Raw); got != `{"spec":{"timeoutSeconds":7}}` {
		t.Errorf("the second patch is %s", got)
	}

	factory := externalversions.NewSharedInformerFactoryWithOptions(clients, 0, externalversions.WithNamespace(s.name))
	informed := factory.Sandbox().V1alpha1()
	poolInformer, batchInformer := informed.Pools().Informer(), informed.BatchSandboxes().Informer()
	factory.StartWithContext(s.ctx)
	t.Cleanup(factory.Shutdown)
	if !cache.WaitForCacheSync(s.ctx.Done(), poolInformer.HasSynced, batchInformer.HasSynced) {
		t.Fatal("the informers never have it all")
	}
	if list, err := informed.Pools().Lister().Pools(s.name).List(labels.Everything()); err != nil || len(list) != 1 || list[0].Name != "p" {
		t.Errorf("the lister has %v (%v), want the pool", list, err)
	}
	if _, err := informed.BatchSandboxes().Lister().BatchSandboxes(s.name).Get("none"); !apierrors.IsNotFound(err) || err.Error() != `batchsandbox.sandbox.opensandbox.io "none" not found` {
		t.Errorf("the lister says %v of what is not there", err)
	}

	s.must(batches.Delete(s.ctx, "b", metav1.DeleteOptions{}))
	s.gone(&v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Name: "b"}})
	if _, err := batches.Get(s.ctx, "b", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a deleted batch is answered with %v", err)
	}
}
