// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"opensandbox.io/controller/api/v1alpha1"
	apply "opensandbox.io/controller/pkg/client/applyconfiguration/api/v1alpha1"
	"opensandbox.io/controller/pkg/client/clientset/versioned"
	"opensandbox.io/controller/pkg/client/informers/externalversions"
)

var (
	ctx    context.Context
	config *rest.Config // of clientcmd, or rest.InClusterConfig
)

// A batch of sandboxes of a pool, made by server-side apply: whoever applies it again with other fields changes these alone.
func Example_apply() {
	clients, err := versioned.NewForConfig(config)
	if err != nil {
		panic(err)
	}
	wanted := apply.BatchSandbox("numbers", "default").WithSpec(apply.BatchSandboxSpec().
		WithPoolRef("example-pool").
		WithReplicas(3).
		WithTaskTemplate(apply.TaskTemplate().WithSpec(apply.TaskSpec().
			WithProcess(apply.Process().WithCommand("sh", "-c", "nproc")))))
	batch, err := clients.SandboxV1alpha1().BatchSandboxes("default").Apply(ctx, wanted, metav1.ApplyOptions{FieldManager: "my-program"})
	if err != nil {
		panic(err)
	}
	fmt.Println(batch.Name, "wants", *batch.Spec.Replicas, "sandboxes of", batch.Spec.PoolRef)
}

// An informer that tells of batches whose tasks have ended, and a lister that reads from its cache.
func Example_informer() {
	clients, err := versioned.NewForConfig(config)
	if err != nil {
		panic(err)
	}
	factory := externalversions.NewSharedInformerFactoryWithOptions(clients, 0, externalversions.WithNamespace("default"))
	batches := factory.Sandbox().V1alpha1().BatchSandboxes()
	tell := func(obj any) {
		batch, ok := obj.(*v1alpha1.BatchSandbox)
		if ok && meta.IsStatusConditionTrue(batch.Status.Conditions, v1alpha1.ConditionTasksCompleted) {
			fmt.Println(batch.Name, "has ended; failed:", batch.Status.FailedIndexes)
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, obj any) { tell(obj) }}
	if _, err := batches.Informer().AddEventHandler(handler); err != nil {
		panic(err)
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown() // once ctx is done
	factory.WaitForCacheSyncWithContext(ctx)

	batch, err := batches.Lister().BatchSandboxes("default").Get("numbers")
	if err != nil {
		panic(err)
	}
	fmt.Println(batch.Name, "has", batch.Status.Ready, "sandboxes")
	<-ctx.Done()
}
