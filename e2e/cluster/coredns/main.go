// CoreDNS with the few plugins that a cluster without a way out needs. The full one is three times as large, and every node
// unpacks it.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/template"
)

// The order is that of CoreDNS itself: it decides which plugin sees a query first.
func init() {
	dnsserver.Directives = []string{"reload", "ready", "health", "errors", "cache", "template", "kubernetes"}
}

func main() {
	coremain.Run()
}
