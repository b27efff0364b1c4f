// Package ext has the types that Traefik's configuration embeds for extensions of other distributions of Traefik.
//
// Traefik's go.mod replaces this module by a folder that is not part of the published module. There are no extensions.
package ext

// HTTP is embedded in the configuration of HTTP.
type HTTP struct{}

// Router is embedded in the configuration of a router.
type Router struct{}
