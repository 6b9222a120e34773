package main

const longHelp = `Run the speaker of one node of a QuorumLB cluster.

One speaker runs on every node that may answer for addresses. It keeps a session
with the members (quorumlb-node), learns from them which addresses its node owns,
answers ARP requests and neighbour solicitations for these, tells the neighbours
when one moves here, and reports what it really does. It keeps nothing that
matters: the state directory only makes a start quicker and a clean-up possible.

It needs CAP_NET_RAW and CAP_NET_ADMIN and the network namespace of the host. Its
certificate's role is speaker/NODE.

Stop it with SIGTERM: the members first move what the node owns, which costs no
datagram. A second speaker of the same node takes over from the first, which then
exits.

Addresses of services with delivery Host are put on the loopback interface, with
net.ipv4.conf.all.arp_ignore=1 and arp_announce=2. They stay there when the speaker
stops, because frames still arrive; 'quorumlb-speaker cleanup' removes them.`

const exampleHelp = `  # certificates, once per node
  qlbctl pki issue speaker/n1 --dir pki

  # answer on eth0 only; ask one more router to prove takeovers
  quorumlb-speaker --node n1 --members 10.0.1.1:7400,10.0.1.2:7400,10.0.1.3:7400 \
    --tls-ca pki/ca.crt --tls-cert pki/speaker-n1.crt --tls-key pki/speaker-n1.key \
    --interfaces eth0 --gateways 192.0.2.254

  # a switch that shuts ports at 15 ARP packets per second
  quorumlb-speaker --config /etc/quorumlb/speaker.yaml --gratuitous-rate 10`

const cleanupHelp = `Remove from the loopback interface the addresses that the speaker with this
state directory has put there, and set sysctls back to what they were. Run it when
a node leaves the cluster for good; the speaker must not run.`
