// SPDX-License-Identifier: Apache-2.0

package main

func batchScenario() scenario { return idleScenario() }
