package fsm

// NextKept is when the next of the free addresses that are kept for deleted
// services falls free, nanoseconds since 1970 UTC; false when none is kept.
func (s *State) NextKept() (unixNano int64, ok bool) {
	t, ok := s.idx.kept.Min()
	return t.time, ok
}
