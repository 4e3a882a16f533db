package peers

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func findEtcd(ctx context.Context, t Tools) (string, error) {
	return t.built(ctx, "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", etcdVersion)
}

func startEtcd(_ context.Context, s *System, file, dir string) error {
	const nodes = 3
	ports, err := freePorts(2 * nodes)
	if err != nil {
		return err
	}
	url := func(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }
	var cluster, clients []string
	for i := range nodes {
		cluster = append(cluster, fmt.Sprintf("e%d=%s", i+1, url(ports[nodes+i])))
		clients = append(clients, fmt.Sprintf("127.0.0.1:%d", ports[i]))
	}
	for i := range nodes {
		name := fmt.Sprintf("e%d", i+1)
		if err := s.run(name, dir, program{file: file, stop: syscall.SIGTERM, args: []string{
			"--name", name, "--data-dir", filepath.Join(dir, name), "--log-level", "warn",
			"--listen-client-urls", url(ports[i]), "--advertise-client-urls", url(ports[i]),
			"--listen-peer-urls", url(ports[nodes+i]), "--initial-advertise-peer-urls", url(ports[nodes+i]),
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new",
		}}); err != nil {
			return err
		}
	}
	s.connect = func(_ context.Context, node int) (Conn, error) {
		client, err := clientv3.New(clientv3.Config{
			Endpoints: clients[node : node+1], DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		})
		if err != nil {
			return nil, fmt.Errorf("connect to etcd: %w", err)
		}
		return etcdConn{client}, nil
	}
	return nil
}

type etcdConn struct{ client *clientv3.Client }

func (c etcdConn) Close() { _ = c.client.Close() } // nothing is under way

func (c etcdConn) Create(ctx context.Context, key string, value []byte) ([]byte, bool, error) {
	a, err := c.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value))).
		Else(clientv3.OpGet(key)).
		Commit()
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("run transaction: %w", err)
	case a.Succeeded:
		return value, true, nil
	}
	got := a.Responses[0].GetResponseRange()
	if got == nil || len(got.Kvs) != 1 {
		return nil, false, errors.New("the key of a refused transaction has no value")
	}
	return got.Kvs[0].Value, false, nil
}
