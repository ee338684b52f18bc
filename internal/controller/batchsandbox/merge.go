// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// mergePatch applies a strategic merge patch to JSON of the type of schema. The library panics at a merge key that is an object
// or a list, as the name in {"env":[{"name":{}}]}: that is an error here.
func mergePatch(original, patch []byte, schema any) (merged []byte, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("it can't be merged, look for a key of a list that is no text or number: %v", cause)
		}
	}()
	return strategicpatch.StrategicMergePatch(original, patch, schema)
}
