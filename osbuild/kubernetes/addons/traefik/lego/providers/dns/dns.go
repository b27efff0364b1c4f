// Package dns replaces lego's package of the same name, which has the programs of 200 providers of DNS.
//
// Traefik uses it for certificates by ACME, which edge-traefik does not request.
package dns

import (
	"fmt"

	"github.com/go-acme/lego/v5/challenge"
)

// NewDNSChallengeProviderByName reports that there are no providers.
func NewDNSChallengeProviderByName(name string) (challenge.Provider, error) {
	return nil, fmt.Errorf("there is no DNS provider %q: this program requests no certificates", name)
}
