package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// samples are the files that are shipped.
func samples(t testing.TB) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../docs/samples/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	files := map[string]string{}
	for _, p := range paths {
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(p)] = string(raw)
	}
	return files
}

func TestEverySampleIsValidAndRoundTrips(t *testing.T) {
	for name, text := range samples(t) {
		t.Run(name, func(t *testing.T) {
			docs, err := Parse(name, strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			if len(docs) == 0 {
				t.Fatal("no documents")
			}
			checkRoundTrip(t, docs)
		})
	}
}

// checkRoundTrip writes documents as YAML and as JSON and expects to read the
// same resources back.
func checkRoundTrip(t *testing.T, docs []*Document) {
	t.Helper()
	var objects []any
	for _, d := range docs {
		o, err := FromResource(d.Resource)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	for form, write := range map[string]func() (string, error){
		"yaml": func() (string, error) { var b bytes.Buffer; err := WriteYAML(&b, objects...); return b.String(), err },
		"json": func() (string, error) {
			var b bytes.Buffer
			err := WriteJSONList(&b, objects...)
			return b.String(), err
		},
	} {
		text, err := write()
		if err != nil {
			t.Fatalf("%s: %v", form, err)
		}
		again, err := Parse(form, strings.NewReader(text))
		if err != nil {
			t.Fatalf("%v\nin\n%s", err, text)
		}
		if len(again) != len(docs) {
			t.Fatalf("%s: %d documents, want %d", form, len(again), len(docs))
		}
		for i := range docs {
			if !proto.Equal(docs[i].Resource, again[i].Resource) {
				t.Errorf("%s: %s came back as\n%s\nwant\n%s\nfrom\n%s", form, docs[i].Object(),
					prototext.Format(again[i].Resource), prototext.Format(docs[i].Resource), text)
			}
		}
	}
}

const head = "apiVersion: quorumlb.io/v1\nkind: "

func pool(spec string) string { return head + "IPAddressPool\nmetadata: {name: p}\nspec:\n" + spec }
func ad(spec string) string   { return head + "L2Advertisement\nmetadata: {name: a}\nspec:\n" + spec }
func svc(spec string) string  { return head + "VirtualService\nmetadata: {name: s}\nspec:\n" + spec }

func TestDefaults(t *testing.T) {
	for _, tt := range []struct{ name, doc, want string }{
		{"pool", pool("  addresses: [192.0.2.0/24]\n  autoAssign:\n"),
			`pool: {name: "p" addresses: "192.0.2.0/24"}`},
		{"pool by hand", pool("  addresses: [192.0.2.0/24]\n  autoAssign: false\n  avoidBuggyIPs: true"),
			`pool: {name: "p" addresses: "192.0.2.0/24" manual_only: true avoid_buggy_ips: true}`},
		{"pool for some", pool("  addresses: [192.0.2.0/24]\n  serviceAllocation: {priority: 4, namespaces: [a], serviceSelectors: [{matchLabels: {b: c}}]}"),
			`pool: {name: "p" addresses: "192.0.2.0/24" service_allocation: {priority: 4 namespaces: "a"
			 service_selectors: {match_labels: {key: "b" value: "c"}}}}`},
		{"pool with an empty serviceAllocation", pool("  addresses: [192.0.2.0/24]\n  serviceAllocation: {}"),
			`pool: {name: "p" addresses: "192.0.2.0/24" service_allocation: {}}`},
		{"quota and quarantine", pool("  addresses: [192.0.2.0/24]\n  quota: {perNamespace: 5, namespaces: {a: 0}}\n  quarantine: 10m"),
			`pool: {name: "p" addresses: "192.0.2.0/24" quota: {per_namespace: 5 namespaces: {key: "a" value: 0}} quarantine_nanos: 600000000000}`},
		{"reservation", head + "Reservation\nmetadata: {name: a}\nspec: {addresses: [192.0.2.1], service: {name: b}, until: 2027-01-31T12:00:00Z}",
			`reservation: {name: "a" addresses: "192.0.2.1" service_namespace: "default" service_name: "b" until_unix_nano: 1801396800000000000}`},
		{"held back for ever", head + "Reservation\nmetadata: {name: a}\nspec: {addresses: [192.0.2.0/28]}",
			`reservation: {name: "a" addresses: "192.0.2.0/28"}`},
		{"namespace", head + "Namespace\nmetadata: {name: a, labels: {b: c}}",
			`namespace: {name: "a" labels: {key: "b" value: "c"}}`},
		{"advertisement", head + "L2Advertisement\nmetadata: {name: a}",
			`l2_advertisement: {name: "a" on_control_loss: CONTROL_LOSS_HOLD placement: PLACEMENT_STICKY rebalance: REBALANCE_NEVER}`},
		{"service", svc("  ports: [{port: 80}]"),
			`service: {namespace: "default" name: "s" ports: {protocol: PROTOCOL_TCP port: 80}
			 ip_family_policy: IP_FAMILY_POLICY_SINGLE_STACK
			 external_traffic_policy: EXTERNAL_TRAFFIC_POLICY_CLUSTER delivery: DELIVERY_NONE}`},
		{"family of an address", svc("  ports: [{port: 80}]\n  addresses: ['2001:db8::1']"),
			`service: {namespace: "default" name: "s" ports: {protocol: PROTOCOL_TCP port: 80} addresses: "2001:db8::1"
			 ip_family_policy: IP_FAMILY_POLICY_SINGLE_STACK ip_families: IP_FAMILY_IPV6
			 external_traffic_policy: EXTERNAL_TRAFFIC_POLICY_CLUSTER delivery: DELIVERY_NONE}`},
		{"second family", svc("  ports: [{port: 80}]\n  ipFamilies: [IPv6]\n  ipFamilyPolicy: RequireDualStack"),
			`service: {namespace: "default" name: "s" ports: {protocol: PROTOCOL_TCP port: 80}
			 ip_family_policy: IP_FAMILY_POLICY_REQUIRE_DUAL_STACK ip_families: IP_FAMILY_IPV6 ip_families: IP_FAMILY_IPV4
			 external_traffic_policy: EXTERNAL_TRAFFIC_POLICY_CLUSTER delivery: DELIVERY_NONE}`},
		{"status is ignored", pool("  addresses: [192.0.2.0/24]\nstatus: {assignedIPv4: 3, anything: [1]}"),
			`pool: {name: "p" addresses: "192.0.2.0/24"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := Parse("", strings.NewReader(tt.doc))
			if err != nil {
				t.Fatal(err)
			}
			want := &adminv1.Resource{}
			if err := prototext.Unmarshal([]byte(tt.want), want); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(docs[0].Resource, want) {
				t.Errorf("have %v\nwant %v", docs[0].Resource, want)
			}
			checkRoundTrip(t, docs)
		})
	}
}

func TestParseNamesThePlace(t *testing.T) {
	text := head + "IPAddressPool\nmetadata: {name: one}\nspec: {addresses: [192.0.2.0/24]}\n" +
		"---\n# nothing here\n---\n" +
		head + "IPAddressPool\nmetadata:\n  name: public\nspec:\n  addresses:\n  - 198.51.100.0/24\n  - 198.51.101.20-198.51.101.10\n"
	_, err := Parse("pools.yaml", strings.NewReader(text))
	want := `pools.yaml:15:5: document 3: IPAddressPool/public: spec.addresses[1]: `
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("have %v\nwant %s", err, want)
	}
}

func TestParseFindsMistakesInEveryDocument(t *testing.T) {
	_, err := Parse("f", strings.NewReader(pool("  addresses: [192.0.2.0/24]\n  adresses: []")+"\n---\n"+ad("  placement: sticky")+"\n---\n"+svc("  ports: [{port: 0}]")))
	var all Errors
	if !errors.As(err, &all) || len(all) != 3 {
		t.Fatalf("want three mistakes, have %v", err)
	}
	for i, want := range []string{"IPAddressPool/p", "L2Advertisement/a", "VirtualService/default/s"} {
		if all[i].Object != want && all[i].Object != strings.Replace(want, "default/", "", 1) {
			t.Errorf("mistake %d is of %q, want %q", i, all[i].Object, want)
		}
	}
}

func TestDuplicates(t *testing.T) {
	one, two := pool("  addresses: [192.0.2.0/24]"), pool("  addresses: [198.51.100.0/24]")
	_, err := Parse("f", strings.NewReader(one+"\n---\n"+two))
	if want := "f:9:18: document 2: IPAddressPool/p: metadata.name: this object is declared twice, first in line 1"; err == nil || err.Error() != want {
		t.Errorf("have %v\nwant %s", err, want)
	}
	a, err := Parse("a", strings.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Parse("b", strings.NewReader(two))
	if err != nil {
		t.Fatal(err)
	}
	err = CheckDuplicates(append(a, b...))
	if want := "b:3:18: IPAddressPool/p: metadata.name: this object is declared twice, first in a:1"; err == nil || err.Error() != want {
		t.Errorf("have %v\nwant %s", err, want)
	}
	// One name in two namespaces, or of two kinds, is no duplicate.
	other := strings.Replace(svc("  ports: [{port: 1}]"), "{name: s}", "{name: s, namespace: other}", 1)
	if _, err := Parse("", strings.NewReader(svc("  ports: [{port: 1}]")+"\n---\n"+other)); err != nil {
		t.Error(err)
	}
	// "default" written out is.
	other = strings.Replace(other, "other", "default", 1)
	if _, err := Parse("", strings.NewReader(svc("  ports: [{port: 1}]")+"\n---\n"+other)); err == nil {
		t.Error("default/s twice was accepted")
	}
}

func TestFault(t *testing.T) {
	docs, err := Parse("f.yaml", strings.NewReader(svc("  ports:\n  - {port: 80}\n  addresses: [192.0.2.1]\n")))
	if err != nil {
		t.Fatal(err)
	}
	for path, line := range map[string]int{
		"spec.addresses[0]": 7, "spec.ports[0].port": 6, "spec.addresses[7]": 7, "metadata.name": 3, "spec.pool": 5, "": 1,
	} {
		if e := docs[0].Fault(path, "no"); e.Line != line {
			t.Errorf("%s: line %d, want %d", path, e.Line, line)
		}
	}
	want := "f.yaml:7:15: VirtualService/default/s: spec.addresses[0]: in use"
	if have := docs[0].Fault("spec.addresses[0]", "in use").Error(); have != want {
		t.Errorf("have %s\nwant %s", have, want)
	}
}

func TestListAndAliases(t *testing.T) {
	docs, err := Parse("", strings.NewReader(`
apiVersion: quorumlb.io/v1
kind: List
items:
- apiVersion: quorumlb.io/v1
  kind: L2Advertisement
  metadata: {name: a, labels: &labels {zone: edge}}
  spec: &spec {nodeSelectors: [{matchLabels: *labels}]}
- apiVersion: quorumlb.io/v1
  kind: L2Advertisement
  metadata: {name: b}
  spec: *spec
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != 2 || docs[1].Resource.GetL2Advertisement().GetNodeSelectors()[0].GetMatchLabels()["zone"] != "edge" {
		t.Errorf("have %v", docs)
	}
}

func TestNoDocuments(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n---\n"} {
		if docs, err := Parse("", strings.NewReader(text)); err != nil || len(docs) != 0 {
			t.Errorf("%q: %v, %v", text, docs, err)
		}
	}
}

func TestNewerResource(t *testing.T) {
	for i, r := range []string{"", `service: {name: "s" delivery: 9}`, `l2_advertisement: {name: "a" placement: 7}`} {
		m := &adminv1.Resource{}
		if err := prototext.Unmarshal([]byte(r), m); err != nil {
			t.Fatal(err)
		}
		if _, err := FromResource(m); !errors.Is(err, ErrUnknownResource) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// A string that YAML would read as something else keeps its quotes.
func TestStringsStayStrings(t *testing.T) {
	for _, s := range []string{"true", "1", "1.5", "null", "~", "2001-01-01", "0x10", "on", "yes", "1e3", ".inf", "a: b", "# a", "", " a", "é", "a\nb", "\u0001", "\u2028", "'", `"`, "<<", "=", "!x", "&a", "*a"} {
		var b bytes.Buffer
		type doc struct {
			S string `json:"s"`
		}
		if err := WriteYAML(&b, doc{s}); err != nil {
			t.Fatal(err)
		}
		var back doc
		if err := DecodeStrict(bytes.NewReader(b.Bytes()), &back); err != nil || back.S != s {
			t.Errorf("%q is written as %q and read as %q, %v", s, b.String(), back.S, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range samples(f) {
		f.Add(text)
	}
	for _, tt := range refused {
		f.Add(tt.doc)
	}
	f.Fuzz(func(t *testing.T, text string) {
		docs, err := Parse("f", strings.NewReader(text))
		if err != nil {
			var all Errors
			if !errors.As(err, &all) || len(docs) > 0 {
				t.Fatalf("error %T with %d documents", err, len(docs))
			}
			_ = fmt.Sprint(err)
			return
		}
		checkRoundTrip(t, docs)
	})
}
