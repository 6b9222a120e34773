package fsm_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The same events have to give the same state everywhere, so fsm and allocator
// may not see a clock, chance, the environment or the order of a map. This test
// reads their source and refuses:
//
//   - imports that are not on the list below,
//   - what asks the clock or waits in package time,
//   - goroutines, channels and select,
//   - range over a map, and maps.Keys, Values and All, unless they are sorted at
//     once (slices.Sorted...) or the line says "// order-free: why".

const orderFree = "// order-free: "

var pureImports = []string{
	"bufio", "bytes", "cmp", "crypto/sha256", "encoding/binary", "errors", "fmt", "hash", "io", "iter", "maps", "math", "math/bits",
	"net/netip", "slices", "strconv", "strings", "sync", "time", "unicode",
	"github.com/cespare/xxhash/v2",
	"github.com/tidwall/btree",
	"google.golang.org/protobuf/encoding/protowire",
	"google.golang.org/protobuf/proto",
	"google.golang.org/protobuf/reflect/protoreflect",
	"github.com/quorumlb/quorumlb/fsm",
	"github.com/quorumlb/quorumlb/proto/quorumlb/log/v1",
}

// pureTime are the parts of package time that do not ask the clock.
var pureTime = []string{"Duration", "Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour"}

func TestPurity(t *testing.T) {
	exports := exportData(t)
	for _, dir := range []string{".", "../allocator"} {
		for _, fault := range impurities(t, dir, exports, nil) {
			t.Error(fault)
		}
	}
}

// The test itself finds what it is for.
func TestPurityFindsImpurity(t *testing.T) {
	const source = `package fsm
import (
	"maps"
	"math/rand"
	"os"
	"slices"
	"time"
)
type set map[string]int
func f(m map[string]int, s set, x []int) (out []string) {
	_, _ = os.Getwd()
	_, _ = time.Now(), rand.Int()
	var _ time.Duration
	for k := range m { out = append(out, k) }
	for k := range s { out = append(out, k) }
	for range m { // order-free: counted
	}
	for range x {
	}
	for k := range maps.Keys(m) { out = append(out, k) }
	out = append(out, slices.Sorted(maps.Keys(m))...)
	go f(nil, nil, nil)
	select {}
}
`
	var lines []string
	for _, fault := range impurities(t, "", exportData(t), map[string]string{"bad.go": source}) {
		lines = append(lines, strings.Split(fault, ":")[1])
	}
	slices.Sort(lines)
	if want := []string{"12", "14", "15", "20", "22", "23", "4", "5"}; !slices.Equal(lines, want) {
		t.Errorf("faults in lines %v, want %v", lines, want)
	}
}

// exportData finds the compiled form of every package that the two use.
func exportData(t *testing.T) map[string]string {
	t.Helper()
	// Not only theirs: the imports of the bad example are there too.
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export", ".", "../allocator", "math/rand")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return exports
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
	}
}

// readSources reads the non-test files of a directory.
func readSources(t *testing.T, dir string) map[string]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sources[name] = string(text)
	}
	return sources
}

type purity struct {
	fset    *token.FileSet
	info    *types.Info
	excused map[int]bool // lines with the marker
	sorted  map[ast.Expr]bool
	faults  []string
}

// impurities checks the non-test files of a directory, or the given sources.
func impurities(t *testing.T, dir string, exports map[string]string, sources map[string]string) []string {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	if sources == nil {
		sources = readSources(t, dir)
	}
	for name, text := range sources {
		f, err := parser.ParseFile(fset, name, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})}
	if _, err := conf.Check("checked", fset, files, info); err != nil {
		t.Fatal(err)
	}
	var faults []string
	for _, f := range files {
		p := &purity{fset: fset, info: info, excused: map[int]bool{}, sorted: map[ast.Expr]bool{}}
		p.file(f)
		faults = append(faults, p.faults...)
	}
	return faults
}

func (p *purity) fault(n ast.Node, format string, args ...any) {
	p.faults = append(p.faults, fmt.Sprintf("%s: %s", p.fset.Position(n.Pos()), fmt.Sprintf(format, args...)))
}

func (p *purity) file(f *ast.File) {
	for _, group := range f.Comments {
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, orderFree) && len(c.Text) > len(orderFree) {
				p.excused[p.fset.Position(c.Pos()).Line] = true
			}
		}
	}
	for _, imp := range f.Imports {
		if path := strings.Trim(imp.Path.Value, `"`); !slices.Contains(pureImports, path) {
			p.fault(imp, "import of %s", path)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		p.node(n)
		return true
	})
}

func (p *purity) node(n ast.Node) {
	switch n := n.(type) {
	case *ast.GoStmt:
		p.fault(n, "goroutine")
	case *ast.SelectStmt:
		p.fault(n, "select")
	case *ast.ChanType:
		p.fault(n, "channel")
	case *ast.RangeStmt:
		if _, isMap := p.info.TypeOf(n.X).Underlying().(*types.Map); isMap && !p.excused[p.fset.Position(n.Pos()).Line] {
			p.fault(n, "range over a map without %q", orderFree)
		}
	case *ast.CallExpr:
		if pkg, name := p.callee(n); pkg == "slices" && strings.HasPrefix(name, "Sorted") {
			p.sorted[n.Args[0]] = true
		} else if pkg == "maps" && slices.Contains([]string{"Keys", "Values", "All"}, name) &&
			!p.sorted[n] && !p.excused[p.fset.Position(n.Pos()).Line] {
			p.fault(n, "maps.%s that is not sorted at once", name)
		}
	case *ast.SelectorExpr:
		if obj := p.info.Uses[n.Sel]; obj != nil && obj.Pkg() != nil && obj.Pkg().Path() == "time" &&
			obj.Parent() == obj.Pkg().Scope() && !slices.Contains(pureTime, obj.Name()) {
			p.fault(n, "time.%s", obj.Name())
		}
	}
}

// callee names the package-level function that is called.
func (p *purity) callee(call *ast.CallExpr) (pkg, name string) {
	fun := ast.Unparen(call.Fun)
	if ix, ok := fun.(*ast.IndexExpr); ok {
		fun = ix.X
	}
	sel, ok := fun.(*ast.SelectorExpr)
	if !ok {
		return "", ""
	}
	obj := p.info.Uses[sel.Sel]
	if obj == nil || obj.Pkg() == nil || obj.Parent() != obj.Pkg().Scope() {
		return "", ""
	}
	return obj.Pkg().Path(), obj.Name()
}
