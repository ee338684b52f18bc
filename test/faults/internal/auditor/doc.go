// SPDX-License-Identifier: Apache-2.0

// Package auditor says after a run whether the controllers kept their promises. It sees what any client could see: the changes
// that the API server's watches tell, and what the executors ran. It shares no code with the controllers: what they get wrong
// it must not get wrong in the same way.
//
// [Recorder] writes the history down, [Audit] judges it. The rules are those of docs/architecture.md, a file each: holds.go,
// clean.go, fit.go, gang.go, bound.go, order.go and tasks.go judge every change; leaks.go and stuck.go judge what is left when everything has
// come to rest.
package auditor
