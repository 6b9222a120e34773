package cli

import (
	"strconv"
	"strings"
)

// resourcePath splits the group's path of a field in a request
// ("resources[2].spec.addresses[0]") into the index of the resource and the path
// of the field in its document.
func resourcePath(field string) (index int, path string, ok bool) {
	rest, ok := strings.CutPrefix(field, "resources[")
	if !ok {
		return 0, "", false
	}
	number, path, ok := strings.Cut(rest, "]")
	index, err := strconv.Atoi(number)
	return index, strings.TrimPrefix(path, "."), ok && err == nil && index >= 0
}
