package main

// mutant is one deliberate bug.
type mutant struct {
	// Name is short and stable; the page and -only use it.
	Name string
	// Breaks says what the bug is, for the page.
	Breaks string
	edits  []edit
	// model is the rule that the bug leaves out: the name of its trace in
	// docs/model, without ".txt". Empty when the models do not hold it.
	model string
	// covered says why nobody notices it: other rules forbid the same.
	covered string
	// wire: only chaos can see it, for the simulation has a table in place of this part.
	wire bool
	// faults are the classes of faults for chaos, as in QUORUMLB_CHAOS_FAULTS; all when empty.
	faults string
}

// edit is one replacement. old stands in the file exactly once.
type edit struct{ file, old, new string }

// mutants is the list. Each bug leaves out one thing that the documents say is needed.
var mutants = []mutant{
	// fsm
	{
		Name: "fsm-no-guard", Breaks: "a batch is folded whatever revision and hash chain it follows",
		edits: []edit{
			{"fsm/batch.go", "if b.GetRevision() != s.Revision+1 {", "if false {"},
			{"fsm/batch.go", "if Hash(b.GetPrev()) != s.Chain {", "if false {"},
		},
	},
	{
		Name: "fsm-no-chain", Breaks: "a batch is folded on any history that has its revision",
		edits:   []edit{{"fsm/batch.go", "if Hash(b.GetPrev()) != s.Chain {", "if false {"}},
		covered: "one decider at a time numbers the revisions, so the guard on them refuses what the chain would",
	},
	{
		Name: "fsm-no-taken", Breaks: "the record of a node does not say that an address was taken from it",
		edits: []edit{{"fsm/evolve_owners.go", "\tn.TakenAt = f.revision\n", ""}},
		model: "4b-ignore-seen",
	},
	{
		Name: "fsm-freed-forgets", Breaks: "an address that its service gave up forgets who owned it",
		edits: []edit{{"fsm/evolve_addresses.go",
			"\t\tPrior: rec.Prior, PriorAt: rec.PriorAt, PriorSession: rec.PriorSession, PriorEpoch: rec.PriorEpoch,\n", ""}},
		model: "move-no-wait",
	},
	{
		Name: "fsm-old-epoch", Breaks: "a successor keeps the epoch of the owner before",
		edits: []edit{{"fsm/evolve_owners.go",
			"c.Owner, c.Epoch, c.OwnerTime, c.OwnerWhy = n.Name, f.revision, f.s.Time, e.GetReason()",
			"if c.Epoch == 0 {\n\t\tc.Epoch = f.revision\n\t}\n\tc.Owner, c.OwnerTime, c.OwnerWhy = n.Name, f.s.Time, e.GetReason()"}},
	},
	{
		Name: "fsm-snapshot-forgets", Breaks: "a snapshot does not hold when an address was taken from a node",
		edits: []edit{
			{"fsm/rows.go", "\te.uint(n.TakenAt)\n", ""},
			{"fsm/rows.go", "\tn.TakenAt = d.uint()\n", ""},
		},
		model: "4b-ignore-seen",
	},
	{
		Name: "fsm-writes-shared", Breaks: "the record of an address is changed in place, although other states share it",
		edits: []edit{{"fsm/evolve_addresses.go", "\tc := *rec\n\tf.s.Addresses[rec.Addr] = &c\n\tf.touchAddress(rec.Addr)\n\treturn &c\n",
			"\tf.touchAddress(rec.Addr)\n\treturn rec\n"}},
	},

	// allocation
	{
		Name: "alloc-ignores-reservation", Breaks: "an address that is promised to another is given to who asks for it",
		edits: []edit{{"allocator/reserve.go", "\tr := c.s.ReservationOf(a)\n\tif r == nil ||", "\tr := c.s.ReservationOf(a)\n\tif true || r == nil ||"}},
	},
	{
		Name: "alloc-ignores-quota", Breaks: "a namespace gets more of a pool than it may",
		edits: []edit{{"allocator/reserve.go", "\treturn used >= int(most)\n", "\treturn used >= int(most)+1\n"}},
	},
	{
		Name: "alloc-ignores-rest", Breaks: "an address that another service gave up lately is given to who asks for it",
		edits: []edit{{"allocator/reserve.go", "if free == nil || free.RestsUntil <= c.now ||", "if true || free == nil ||"}},
	},
	{
		Name: "alloc-any-pool", Breaks: "a pool gives to services that it is not for",
		edits: []edit{{"allocator/choose.go", "func (c *chooser) selects(pool string) bool { return c", "func (c *chooser) selects(pool string) bool { return true || c"}},
	},
	{
		Name: "alloc-hands-out-reserved", Breaks: "a reserved address that falls free joins the queue of those for anybody",
		edits: []edit{{"fsm/index_pool.go", "!f.skips(free.Addr) && !x.isReserved(free.Addr) && ", "!f.skips(free.Addr) && "}},
	},
	{
		Name: "alloc-shares-ports", Breaks: "services share an address although both have the same port",
		edits: []edit{{"allocator/address.go", "if protocol(p) == protocol(q) && p.GetPort() == q.GetPort() {", "if protocol(p) == protocol(q) && p.GetPort() == q.GetPort() && false {"}},
	},
	{
		Name: "alloc-shares-backends", Breaks: "services share an address whatever their externalTrafficPolicy and selector",
		edits: []edit{
			{"allocator/address.go", "if local(a) != local(b) {", "if local(a) != local(b) && false {"},
			{"allocator/address.go", "if local(a) && !maps.Equal(", "if false && !maps.Equal("},
		},
	},
	{
		Name: "alloc-youngest-first", Breaks: "what falls free is offered first to the service that has waited least",
		edits: []edit{{"raftnode/decider/turns.go", "c := fsm.CompareAge(a.svc, b.svc)", "c := fsm.CompareAge(b.svc, a.svc)"}},
	},
	{
		Name: "alloc-one-round", Breaks: "what one of those that wait gives up for something else is not offered to those that have waited longer",
		edits: []edit{{"raftnode/decider/turns.go", "if len(r.work.hope.pools) > 0 {", "if false {"}},
	},
	{
		Name: "alloc-one-class", Breaks: "pools with a serviceAllocation for the service do not come before those for all, where the latter have more",
		edits: []edit{{"allocator/choose.go", "return [2][]string{pools[:at], pools[at:]}", "return [2][]string{pools[:at][:0], pools}"}},
	},
	{
		Name: "alloc-first-pool", Breaks: "a service with addressCount gets what the first pool has, although another has all",
		edits: []edit{{"allocator/several.go", "\t\tif c.count == 1 {\n\t\t\treturn true // no", "\t\tif true {\n\t\t\treturn true // no"}},
	},
	{
		Name: "alloc-keeps-family", Breaks: "a service that no longer wants two families keeps both",
		edits: []edit{{"allocator/address.go", "case !c.second && len(c.has[f.other()]) > 0:", "case !c.second && len(c.has[f.other()]) > 0 && false:"},
			{"allocator/address.go", "case !c.second && !c.either && f != c.first:", "case !c.second && !c.either && f != c.first && len(c.has[f.other()]) == 0:"}},
	},
	{
		Name: "alloc-pair-of-two", Breaks: "the two families of a service come from two pools",
		edits: []edit{{"allocator/choose.go", "other, ok := c.again(f, choice.Pool)", "other, ok := c.again(f, \"\")"}},
	},

	// decider
	{
		Name: "decider-no-release-wait", Breaks: "an address goes to its next owner as soon as it was taken from the one before",
		edits: []edit{{"raftnode/decider/owners.go", "if a := o.releaseWait(rel); !a.yes {", "if a := o.releaseWait(rel); false {"}},
		model: "move-no-wait",
	},
	{
		Name: "decider-no-fence-wait", Breaks: "under Release an address is given away with the expiry, without the fence time",
		edits: []edit{{"raftnode/decider/owners.go", "if a := o.fencePassed(owner.Name); !a.yes {", "if a := o.fencePassed(owner.Name); false {"}},
		model: "6-no-fence",
	},
	{
		Name: "decider-unknown-refused", Breaks: "an unknown outcome is answered with \"not leader\", so the command is tried again elsewhere",
		edits: []edit{{"raftnode/decider/limbo.go", "if !p.r.Changed {", "if true {"}},
	},
	{
		Name: "decider-proof-lost", Breaks: "batches behind a proof of leadership that failed are called lost",
		edits: []edit{{"raftnode/decider/limbo.go", "\t\t\t// It was in no log; that says nothing of the batches behind it.\n", "\t\t\tlost = true\n"}},
	},
	{
		Name: "decider-early-answer", Breaks: "commands are answered when their batch is proposed",
		edits: []edit{{"raftnode/decider/batch.go", "\t\tf.replies = replies\n\t\tr.takeOff(f)\n", "\t\tr.takeOff(f)\n\t\tr.d.answer(replies, nil)\n"}},
	},
	{
		Name: "decider-keeps-head", Breaks: "after a batch that failed the next ones are decided on the same head",
		edits: []edit{{"raftnode/decider/flight.go", "\t\tr.failed = true\n",
			"\t\tat := slices.Index(r.flights, f)\n\t\tr.flights = slices.Delete(r.flights, at, at+1)\n\t\tdefer d.answerUnknown(f)\n"}},
	},
	{
		Name: "decider-no-barrier", Breaks: "a new leader decides without a barrier, on what it happens to have applied",
		edits: []edit{{"raftnode/decider/recover.go", "err := r.d.log.Barrier(r.d.cfg.BarrierTimeout)", "var err error"}},
	},
	{
		Name: "decider-stale-expiry", Breaks: "an expiry that waited is decided although the node was heard again meanwhile",
		edits: []edit{{"raftnode/decider/session.go", "!t.silent(id.Node, id.Session)", "false"}},
	},

	// leases
	{
		Name: "lease-no-poll", Breaks: "a heartbeat is acked at its receipt, without a majority that was asked afterwards",
		edits: []edit{{"raftnode/lease/acks.go", "\tc := answered[len(answered)-majority]\n", "\tc := uint64(math.MaxUint64)\n"}},
		model: "4c-no-poll",
	},
	{
		Name: "lease-earlier-poll", Breaks: "answers to polls that were sent before the receipt count",
		edits: []edit{{"raftnode/lease/acks.go", "if u == nil || u.after >= covered {", "if u == nil || covered == 0 {"}},
		model: "4c-earlier-poll",
	},
	{
		Name: "lease-minority", Breaks: "one voter less than a majority covers a heartbeat",
		edits: []edit{{"raftnode/lease/acks.go", "majority := len(answered)/2 + 1", "majority := max(1, len(answered)/2)"}},
		model: "4c-minority",
	},
	{
		Name: "lease-any-session", Breaks: "heartbeats of any session of the node are acked",
		edits: []edit{{"raftnode/lease/acks.go", "case !n.facts.open(hb.Session) && !l.cfg.rules.anySession:",
			"case !n.facts.open(n.facts.Session):"}},
		model: "4a-any-session-beside",
	},
	{
		Name: "lease-ignore-seen", Breaks: "a node is acked that has not seen what was taken from it",
		edits: []edit{{"raftnode/lease/acks.go", "case hb.Seen < n.need() && !l.cfg.rules.ignoreSeen:", "case hb.Seen < n.facts.Session:"}},
		model: "4b-ignore-seen",
	},
	{
		Name: "lease-fence-no-barrier", Breaks: "the fence time does not count from the barrier",
		edits: []edit{{"raftnode/lease/waits.go", "\tbase := l.barrier\n", "\tbase := time.Duration(0)\n"}},
		model: "6-no-barrier",
	},
	{
		Name: "lease-fence-no-receipt", Breaks: "the fence time does not count from the last heartbeat",
		edits: []edit{{"raftnode/lease/waits.go", "\t\tbase = max(base, n.passed, n.passedBefore)\n", ""}},
		model: "6-no-receipt",
	},
	{
		Name: "lease-from-receipt", Breaks: "a confirmation counts from when the ack arrives, not from when the heartbeat was sent",
		edits: []edit{{"speakers/session/heartbeat.go", "until := l.holder.Deadline()", "until := l.s.cfg.Clock.Now() + leasetime.Shorten(fence)"}},
		model: "5-from-receipt",
	},
	{
		Name: "lease-no-drift", Breaks: "a confirmation lasts F by the node's own clock, however slow",
		edits: []edit{{"internal/leasetime/holder.go", "+ Shorten(ack.Fence)))", "+ ack.Fence))"}},
		model: "5-no-drift",
	},
	{
		Name: "lease-own-detection", Breaks: "under Hold a node counts as fresh for the D of its own view, not for that of the ack",
		edits: []edit{{"speakers/session/heartbeat.go", "detection := time.Duration(resp.GetDetectionNanos())", "detection := l.s.times.Load().detection"}},
	},
	{
		Name: "lease-expire-alone", Breaks: "a leader expires nodes without having asked a majority",
		edits: []edit{{"raftnode/lease/expiry.go", "if len(asked) <= len(voters)/2 {", "if len(asked) <= len(voters)/2 && false {"},
			{"raftnode/lease/expiry.go", "return asked[len(voters)/2], true", "return l.own.now, true"}},
		model: "7-alone",
	},
	{
		Name: "lease-expire-unasked", Breaks: "a leader expires nodes that it does not hear, although others do",
		edits: []edit{{"raftnode/lease/expiry.go", "\t\t\tat, heard = max(at, e.at), true\n", "\t\t\theard = true\n"}},
		model: "7-unasked",
	},
	{
		Name: "lease-new-times", Breaks: "waits go by new lease times at once",
		edits: []edit{{"raftnode/lease/times.go", "\t\tlong.Detection = max(long.Detection, p.times.Detection)\n", ""}},
		model: "9-new-times",
	},
	{
		Name: "lease-no-predecessor", Breaks: "a clone of a node is acked while its predecessor may still be confirmed",
		edits: []edit{{"raftnode/lease/acks.go", "if l.own.now < l.foreignFence(n) {", "if false {"}},
		model: "1-no-predecessor",
	},
	{
		Name: "lease-newcomer", Breaks: "what a new process reports counts for the process before it at once",
		edits: []edit{{"raftnode/lease/waits.go", "\tcounts = n.before + l.outlast()\n", "\tcounts = 0\n"}},
		model: "move-newcomer",
	},
	{
		Name: "lease-own-term", Breaks: "a leader does not read its own term before it acks",
		edits: []edit{{"raftnode/lease/acks.go", "if ownTerm != l.term && !l.cfg.rules.ownTermStale {", "if ownTerm < l.term {"}},
		model: "4c-own-term",
	},
	{
		Name: "lease-eager", Breaks: "acks name a longer F before it is committed",
		edits: []edit{{"raftnode/lease/leader.go", "return min(fence, l.own.times.cur.Fence()), min(detection, l.own.times.cur.Detection)", "return l.times.cur.Fence(), l.times.cur.Detection"}},
		model: "9-eager",
	},

	// watches
	{
		Name: "watch-lost-delta", Breaks: "the first change after a whole view is left out",
		edits: []edit{{"raftnode/watch/hub.go", "if d.revision <= sub.from {", "if d.revision <= sub.from+1 {"}},
	},

	// layer 2
	{
		Name: "layer2-keeps-lost", Breaks: "an address that the view takes away is answered for and announced as before",
		edits: []edit{{"speakers/layer2/apply.go", "if w, ok := wanted[addr]; !ok || w.Epoch != v.Epoch {", "if w, ok := wanted[addr]; ok && w.Epoch != v.Epoch {"}},
		wire:  true, faults: "speakers restarted,leadership given",
	},
	{
		Name: "layer2-goes-on-announcing", Breaks: "what is left of a takeover's announcements is sent although the address was lost meanwhile",
		edits: []edit{{"speakers/layer2/apply.go", "\tv.endBursts()\n\tl.forget(v, now)\n", "\tl.forget(v, now)\n"}},
		wire:  true, faults: "speakers restarted,leadership given",
	},
	{
		Name: "layer2-no-deadline", Breaks: "under Release requests are answered without a confirmation",
		edits: []edit{{"speakers/layer2/responder.go", "if until == 0 || (j.entry.Mode != Hold || j.entry.Soft) && int64(r.clock.Now()) >= until {", "if until == 0 {"}},
		wire:  true, faults: "management",
	},
	{
		Name: "layer2-never-yields", Breaks: "an owner under Hold does not yield to its successor's claim",
		edits: []edit{{"speakers/layer2/responder.go", "yield := j.entry.Mode == Hold && int64(r.clock.Now()) >= until", "yield := j.entry.Mode == Hold && int64(r.clock.Now()) >= until && false"}},
		wire:  true, faults: "management: node,management: split",
	},
	{
		Name: "layer2-yields-for-a-moment", Breaks: "a yield ends without an ack of a heartbeat that was sent after the claim",
		edits: []edit{{"speakers/layer2/claims.go", "if time.Duration(l.sent.Load()) > v.yieldedAt && now < l.fresh() {", "if now > v.yieldedAt {"}},
		wire:  true, faults: "management: node,management: split",
	},
}
