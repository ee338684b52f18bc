// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

const (
	// hostileBatches is the number of batches in the hostile namespace, hostileUsers how many edit them at once.
	hostileBatches = 200
	hostileUsers   = 4
	// hostilePause is the time between two edits of one user.
	hostilePause = 20 * time.Millisecond
)

// trouble is a batch that waits, asks for what can never be, is wrong, was edited by hand, or has a task that nobody takes.
func trouble(i int) *v1alpha1.BatchSandbox {
	sb := makeBatch(fmt.Sprintf("trouble-%d", i), "small", 1)
	switch i % 6 {
	case 1:
		gang := int32(50)
		sb.Spec.Replicas, sb.Spec.MinAvailable = &gang, &gang
	case 2:
		sb.Spec.PoolRef, sb.Spec.Template = "", raw(`{"spec":{"containers":"many"}}`)
	case 3:
		sb.Spec.PoolRef, sb.Spec.Template = "", raw(`{"spec":{"containers":[{"name":"No Such Name","image":"nginx"}]}}`)
	case 4:
		sb.Annotations = map[string]string{v1alpha1.AllocStatusAnnotation: `{"pods":`}
	case 5:
		if i < 100 {
			sb = withTask(makeBatch(sb.Name, "", 1))
		}
	}
	return sb
}

// annoy edits batches and their pool until the context ends.
func (s *space) annoy(ctx context.Context, user int) {
	for i := user; ; i += hostileUsers {
		var obj client.Object = trouble(i % hostileBatches)
		patch := fmt.Sprintf(`{"spec":{"priority":%d}}`, i)
		switch i / hostileUsers % 3 {
		case 1:
			patch = fmt.Sprintf(`{"metadata":{"annotations":{"%s":"%d"}}}`, v1alpha1.AllocReleaseAnnotation, i)
		case 2:
			obj = makePool("small", 0, 0, 0, 0)
			patch = fmt.Sprintf(`{"spec":{"capacitySpec":{"poolMax":%d}}}`, 3+i%2)
		}
		obj.SetNamespace(s.name)
		_ = s.client.Patch(ctx, obj, client.RawPatch("application/merge-patch+json", []byte(patch))) // it may be refused: the next one comes
		select {
		case <-time.After(hostilePause):
		case <-ctx.Done():
			return
		}
	}
}

// While the user of one namespace makes and edits batches and pools that can't be served, every batch of another namespace is served
// from its own pool, and what is not wrong in the first one too.
func TestAHostileNamespaceKeepsNoSandboxFromAnother(t *testing.T) {
	const victims = 30
	hostile, victim := newSpace(t), newSpace(t)
	c := victim.startController("", "--watch-namespaces="+hostile.name+","+victim.name, "--concurrency=4")
	victim.create(makePool("p", 4, 4, 0, victims))
	hostile.create(makePool("small", 3, 3, 0, 3))
	for i := range hostileBatches {
		hostile.create(trouble(i))
	}
	ctx, stop := context.WithCancel(t.Context())
	var users sync.WaitGroup
	for user := range hostileUsers {
		users.Go(func() { hostile.annoy(ctx, user) })
	}
	defer users.Wait()
	defer stop()
	for i := range victims {
		victim.create(makeBatch(fmt.Sprintf("b%d", i), "p", 1))
	}
	for i := range victims {
		victim.delivered(fmt.Sprintf("b%d", i), 1)
	}
	victim.must(victim.client.Delete(victim.ctx, victim.batch("b0")))
	victim.gone(makeBatch("b0", "p", 1))
	stop()
	users.Wait()
	hostile.create(makeBatch("good", "", 1))
	hostile.delivered("good", 1)
	if log := c.log.String(); strings.Contains(log, "panic") {
		t.Error("the controller's log tells of a panic")
	}
}
