package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/test/lab"
)

// Etcd is a group of etcd members, one on each host.
type Etcd struct {
	addrs []string // host:port of the client side
	tls   *tls.Config
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
}

// HasEtcd is nil when etcd is installed.
func HasEtcd() error {
	_, err := find("etcd", "etcd-server")
	return err
}

// StartEtcd starts etcd on the hosts, which reach each other by the addresses of
// ifname. from is where clients are. As with us, every connection is TLS with
// certificates on both sides.
func StartEtcd(dir, ifname string, from *lab.Host, hosts ...*lab.Host) (*Etcd, error) {
	path, err := find("etcd", "etcd-server")
	if err != nil {
		return nil, err
	}
	e := &Etcd{dial: from.Dial}
	var initial []string
	for _, h := range hosts {
		ip := h.Addr(ifname, false).String()
		e.addrs = append(e.addrs, ip+":2379")
		initial = append(initial, fmt.Sprintf("%s=https://%s:2380", h.Name(), ip))
	}
	keys := filepath.Join(dir, "etcd-pki")
	if err := pki.Init(keys); err != nil {
		return nil, err
	}
	for _, h := range hosts {
		ip := h.Addr(ifname, false).String()
		data := filepath.Join(dir, h.Name()+"-etcd")
		if err := os.MkdirAll(data, 0o700); err != nil {
			return nil, err
		}
		id, err := pki.Issue(keys, pki.Role{Kind: pki.KindMember, Name: h.Name()}, []string{ip}, 24*time.Hour)
		if err != nil {
			return nil, err
		}
		_, err = h.Start("etcd", path, "--name", h.Name(), "--data-dir", data,
			"--listen-peer-urls", "https://"+ip+":2380", "--initial-advertise-peer-urls", "https://"+ip+":2380",
			"--listen-client-urls", "https://"+ip+":2379", "--advertise-client-urls", "https://"+ip+":2379",
			"--client-cert-auth", "--trusted-ca-file", id.CA, "--cert-file", id.Cert, "--key-file", id.Key,
			"--peer-client-cert-auth", "--peer-trusted-ca-file", id.CA, "--peer-cert-file", id.Cert, "--peer-key-file", id.Key,
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new")
		if err != nil {
			return nil, err
		}
	}
	return e, e.identify(keys)
}

// identify makes the clients' certificate.
func (e *Etcd) identify(keys string) error {
	id, err := pki.Issue(keys, pki.Role{Kind: pki.KindAdmin, Name: "lab"}, nil, 24*time.Hour)
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(id.Cert, id.Key)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(id.CA)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	e.tls = &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12}
	return nil
}

// Conn connects to the i-th member.
func (e *Etcd) Conn(i int) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+e.addrs[i],
		grpc.WithTransportCredentials(credentials.NewTLS(e.tls)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return e.dial(ctx, "tcp", addr) }),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
}

// Put stores a value. The request is written by hand, so that etcd's client and
// all that it needs stay out of go.mod.
func Put(ctx context.Context, conn *grpc.ClientConn, key string, value []byte) error {
	req := append([]byte{1<<3 | 2}, binary.AppendUvarint(nil, uint64(len(key)))...)
	req = append(req, key...)
	req = append(req, 2<<3|2)
	req = append(binary.AppendUvarint(req, uint64(len(value))), value...)
	var resp []byte
	return conn.Invoke(ctx, "/etcdserverpb.KV/Put", &req, &resp)
}

// rawCodec passes encoded messages through.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (rawCodec) Name() string { return "proto" }

// Watch calls each for every message about the key until ctx ends: first for the
// one that says that the watch stands, then for every change.
func Watch(ctx context.Context, conn *grpc.ClientConn, key string, each func()) error {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/etcdserverpb.Watch/Watch")
	if err != nil {
		return err
	}
	create := append([]byte{1<<3 | 2}, binary.AppendUvarint(nil, uint64(len(key)))...)
	create = append(create, key...)
	req := append([]byte{1<<3 | 2}, binary.AppendUvarint(nil, uint64(len(create)))...)
	req = append(req, create...)
	if err := stream.SendMsg(&req); err != nil {
		return err
	}
	for {
		var resp []byte
		if err := stream.RecvMsg(&resp); err != nil {
			return err
		}
		each()
	}
}
