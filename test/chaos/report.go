package chaos

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"os"
	"time"
)

//go:embed report.html
var reportPage string

// writeReport writes one page that needs nothing else.
func (r *Result) writeReport(path string) error {
	page, err := template.New("report").Funcs(template.FuncMap{
		"ms":        func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) },
		"at":        func(t time.Time) string { return t.Format("15:04:05.000") },
		"timeline":  func(x *Round) template.HTML { return r.timeline(x) },
		"histogram": func() template.HTML { return r.histogram() },
		"legend":    func() template.HTML { return r.legend() },
		"total":     func() int { return sum(r.Operations) },
	}).Parse(reportPage)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := page.Execute(&b, r); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func sum(m map[Verb]int) (n int) {
	for _, x := range m {
		n += x
	}
	return n
}
