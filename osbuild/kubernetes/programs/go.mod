// Small programs of our own. They need nothing but Go's standard library, so there is no go.sum.
module edge-osbuild

go 1.26
