// SPDX-License-Identifier: Apache-2.0

package taskexecutor

// Update says whether golden files are to be rewritten, for the tests from outside of the package.
func Update() bool { return *update }
