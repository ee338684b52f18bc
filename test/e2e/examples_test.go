// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/internal/examples"
)

func TestEachExamplePrintsWhatItsTasksWrote(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply("task-pool.yaml")
	s.poolIs("task-example-pool", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available >= 2 && p.Starting == 0 })
	const n = 3
	want := examples.Line("INDEX", "RESULT", "OUTPUT")
	for i := range n {
		want += examples.Line(strconv.Itoa(i), "Succeeded", fmt.Sprintf("%d squared is %d", i, i*i))
	}
	for _, fanout := range examples.Fanouts(t, "../..", t.TempDir()) {
		t.Run(fanout.Name, func(t *testing.T) {
			got := fanout.Run(t.Context(), t, examples.Options{
				Kubeconfig: os.Getenv("KUBECONFIG"), Namespace: s.name, Pool: "task-example-pool", Count: n, Timeout: settleTime,
			})
			if diff := cmp.Diff(examples.Outcome{Out: want}, got); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}
