package cli

import (
	"regexp"
	"strconv"
	"strings"
)

// The group names a field by the API's names ("resources[2].pool.manual_only");
// a person knows the file's ("spec.autoAssign").
var (
	resourceField = regexp.MustCompile(`^resources\[(\d+)\]\.?(.*)$`)
	snake         = regexp.MustCompile(`_([a-z0-9])`)
	resourceKinds = map[string]bool{"pool": true, "l2_advertisement": true, "l2Advertisement": true, "service": true}
	fileNames     = map[string]string{
		"manualOnly":    "autoAssign",
		"avoidBuggyIps": "avoidBuggyIPs",
	}
)

// resourcePath splits the API's path of a field in a request's resources into
// the resource's index and the file's path of the field.
func resourcePath(field string) (index int, path string, ok bool) {
	m := resourceField.FindStringSubmatch(field)
	if m == nil {
		return 0, "", false
	}
	index, err := strconv.Atoi(m[1])
	if err != nil {
		return 0, "", false
	}
	rest := m[2]
	if head, tail, _ := strings.Cut(rest, "."); resourceKinds[head] {
		rest = tail
	}
	if rest == "" || strings.HasPrefix(rest, "spec") || strings.HasPrefix(rest, "metadata") {
		return index, rest, true
	}
	// Keys of labels are the operator's own and stay as they are.
	name, after := rest, ""
	if i := strings.IndexAny(rest, `"`); i >= 0 {
		name, after = rest[:i], rest[i:]
	}
	name = snake.ReplaceAllStringFunc(name, func(s string) string { return strings.ToUpper(s[1:]) })
	first := strings.FieldsFunc(name, func(r rune) bool { return r == '.' || r == '[' })[0]
	if file, ok := fileNames[first]; ok {
		name = file + name[len(first):]
	}
	switch first {
	case "name", "namespace", "labels":
		return index, "metadata." + name + after, true
	}
	return index, "spec." + name + after, true
}
