package config

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// lookup finds the node at a path such as spec.addresses[1] or
// metadata.labels["a/b"]. When a step is not there it gives the last node that
// is.
func lookup(root *yaml.Node, path string) *yaml.Node {
	n := resolve(root)
	for path != "" {
		step, index, rest := nextStep(path)
		var next *yaml.Node
		switch {
		case index < 0:
			next = child(n, step)
		case n.Kind == yaml.SequenceNode && index < len(n.Content):
			next = n.Content[index]
		}
		if next == nil {
			return n
		}
		n, path = resolve(next), rest
	}
	return n
}

// nextStep takes the first step off a path: a key, or an index that is not
// negative.
func nextStep(path string) (key string, index int, rest string) {
	path = strings.TrimPrefix(path, ".")
	if !strings.HasPrefix(path, "[") {
		if i := strings.IndexAny(path, ".["); i >= 0 {
			return path[:i], -1, path[i:]
		}
		return path, -1, ""
	}
	if quoted, err := strconv.QuotedPrefix(path[1:]); err == nil {
		key, _ = strconv.Unquote(quoted)
		return key, -1, strings.TrimPrefix(path[1+len(quoted):], "]")
	}
	inner, rest, _ := strings.Cut(path[1:], "]")
	if i, err := strconv.Atoi(inner); err == nil && i >= 0 {
		return "", i, rest
	}
	return inner, -1, rest
}
