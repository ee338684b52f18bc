// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const before = `{"verb":"patch","userAgent":"opensandbox-controller/dev","objectRef":{"resource":"pods"}}
`

const after = `{"verb":"patch","userAgent":"opensandbox-controller/dev","objectRef":{"resource":"batchsandboxes","subresource":"status"}}
{"verb":"patch","userAgent":"opensandbox-controller/dev","objectRef":{"resource":"batchsandboxes","subresource":"status"}}
{"verb":"patch","userAgent":"opensandbox-controller/dev","objectRef":{"resource":"pods"},"responseStatus":{"code":409}}
{"verb":"watch","userAgent":"opensandbox-controller/dev","objectRef":{"resource":"pods"}}
{"verb":"get","userAgent":"opensandbox-controller/dev"}
{"verb":"create","userAgent":"kwok/v1 (linux)","objectRef":{"resource":"events"},"responseStatus":{"code":201}}
{"verb":"patch","userAgent":"opensand`

func TestWritesAfterAMarkAreCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	log := Open(path)
	mark, err := log.Now()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(before+after), 0o600); err != nil {
		t.Fatal(err)
	}
	calls, err := log.Writes(mark)
	if err != nil {
		t.Fatal(err)
	}
	want := Calls{
		{Client: "opensandbox-controller", Verb: "patch", Resource: "batchsandboxes/status"}: 2,
		{Client: "opensandbox-controller", Verb: "patch", Resource: "pods", Refused: true}:   1,
		{Client: "kwok", Verb: "create", Resource: "events"}:                                 1,
	}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	if all, status, none := calls.Sum("kwok", ""), calls.Sum("opensandbox-controller", "batchsandboxes/status"), calls.Sum("kwok", "pods"); all != 1 || status != 2 || none != 0 {
		t.Errorf("sums %d, %d and %d, want 1, 2 and 0", all, status, none)
	}
}
