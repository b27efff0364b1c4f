//go:build tools

// Package tools names the module whose program is built.
package tools

import _ "github.com/rancher/local-path-provisioner"
