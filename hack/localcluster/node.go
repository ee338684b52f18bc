// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
)

type nodePreparation struct{}

func (c *cluster) prepareNode(ctx context.Context, p *progress) (nodePreparation, error) {
	return nodePreparation{}, errors.New("the real node is not built yet")
}
func (b *bringer) node(ctx context.Context) error {
	return errors.New("the real node is not built yet")
}
func (c *cluster) cleanHost(ctx context.Context, st *state) error { return nil }
func runImages(ctx context.Context, a []string) error {
	return errors.New("the real node is not built yet")
}
func runPush(ctx context.Context, a []string) error {
	return errors.New("the real node is not built yet")
}
func runExec(ctx context.Context, a []string) error {
	return errors.New("the real node is not built yet")
}
func runServeRegistry(ctx context.Context, a []string) error {
	return errors.New("the real node is not built yet")
}
