// SPDX-License-Identifier: Apache-2.0

package main

func churnScenario() scenario { return idleScenario() }
