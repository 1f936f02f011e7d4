package sources

import "path"

// YAML returns the source.yaml of a built-in source as it was written.
func YAML(name string) ([]byte, error) { return embedded.ReadFile(path.Join(name, "source.yaml")) }
