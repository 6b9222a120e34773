package chaos

func (r *Result) writeReport(path string) error { return nil }
