// SPDX-License-Identifier: Apache-2.0

package scheduler

import "k8s.io/apimachinery/pkg/util/resourceversion"

// OlderVersion says whether resourceVersion a is known to be before b. Versions that can't be compared are not
// older.
func OlderVersion(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}
