"""The embedded provider: real Kubernetes in Linux namespaces, built from package registries."""
