package main

const longHelp = `Run one member of a QuorumLB group.

A group has three or five members. They keep one log, in which stands which node
answers for which address; as long as a majority runs, addresses move from dead
nodes to live ones. A member has no access to the network's frames: that is the
work of quorumlb-speaker, one on every node.

Start every member with the same --members, the first time and every time. The
members found the group by themselves once all of them are reachable and all
their disks are empty. A member whose disk was lost comes back as a new one,
with an id of its own, and takes the place of the old.

One port serves other members, speakers and operators, always with TLS and
certificates on both sides. Certificates are made by 'qlbctl pki' and are read
again when their files change.

Stop a member with SIGTERM: it hands leadership over first. Restart one member at
a time, and wait for /readyz?caughtup before the next.`

const exampleHelp = `  # certificates, once
  qlbctl pki init --dir pki
  qlbctl pki issue member/m1 --dir pki

  # the first of three members
  quorumlb-node --name m1 --data-dir /var/lib/quorumlb/node \
    --members m1=10.0.1.1:7400,m2=10.0.1.2:7400,m3=10.0.1.3:7400 \
    --tls-ca pki/ca.crt --tls-cert pki/member-m1.crt --tls-key pki/member-m1.key

  # the same from a file
  quorumlb-node --config /etc/quorumlb/node.yaml`

const recoverHelp = `Make this member the first of a new group after the majority was lost for good.

Use it only when more than half of the members can never come back with their
disks. Stop the member that has the newest data (compare 'qlbctl status --stale'
or the logs), run this command on it, start it again, and let the others join
with empty disks. What only the lost members had acknowledged is gone.

Members that are counted as lost must never be started with their old disks
again: empty their data directories first.`
