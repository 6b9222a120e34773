package fsm

import logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"

func (f *folding) serviceDeclared(e *logv1.ServiceDeclared) error {
	spec := e.GetService()
	if spec.GetNamespace() == "" || spec.GetName() == "" {
		return corruptf("ServiceDeclared without namespace or name")
	}
	key := KeyOf(spec.GetNamespace(), spec.GetName())
	old := f.s.Services[key]
	svc := &Service{Key: key, CreatedAt: f.revision}
	if old != nil {
		*svc = *old
		f.s.idx.unwait(old)
	}
	svc.Spec = spec
	svc.Source, svc.Generation = e.GetSource(), e.GetGeneration()
	svc.DeclaredAt, svc.DeclaredTime = f.revision, f.s.Time
	if spec.GetHealthCheck() == nil {
		svc.Health = nil
	}
	f.s.Services[key] = svc
	f.s.idx.wait(svc)
	f.labelsChanged(old, svc)
	if before, after := old.sharingKey(), spec.GetSharingKey(); before != after {
		for _, a := range svc.Addresses {
			f.s.idx.unshare(f.s, before, a, f.s.Addresses[a].Services)
			f.s.idx.share(after, a)
		}
	}
	// What the address means for a speaker (delivery, selectors) comes from here.
	for _, a := range svc.Addresses {
		f.touchAddress(a)
	}
	f.touchService(key)
	return nil
}

func (s *Service) sharingKey() string {
	if s == nil {
		return ""
	}
	return s.Spec.GetSharingKey()
}

func (f *folding) serviceDeleted(e *logv1.ServiceDeleted) error {
	svc, err := f.service("ServiceDeleted", e.GetNamespace(), e.GetName())
	if err != nil {
		return err
	}
	if len(svc.Addresses) > 0 {
		return corruptf("service %s deleted while it has %s", svc.Key, svc.Addresses[0])
	}
	f.s.idx.unwait(svc)
	delete(f.s.Services, svc.Key)
	f.touchService(svc.Key)
	return nil
}

func (f *folding) allocationRefused(e *logv1.AllocationRefused) error {
	svc, err := f.service("AllocationRefused", e.GetNamespace(), e.GetName())
	if err != nil {
		return err
	}
	refusals := make([]Refusal, 0, len(e.GetRefusals()))
	for _, r := range e.GetRefusals() {
		out := Refusal{Pool: r.GetPool(), Reason: r.GetReason(), Family: r.GetFamily(), Until: r.GetUntilUnixNano()}
		if len(r.GetAddress()) > 0 {
			if out.Addr, err = ToAddr(r.GetAddress()); err != nil {
				return err
			}
		}
		refusals = append(refusals, out)
	}
	f.s.idx.unwait(svc)
	c := f.editService(svc)
	c.Pending, c.Refusals = e.GetReason(), refusals
	f.s.idx.wait(c)
	return nil
}

func (f *folding) service(event, namespace, name string) (*Service, error) {
	key := KeyOf(namespace, name)
	svc := f.s.Services[key]
	if svc == nil {
		return nil, corruptf("%s for unknown service %s", event, key)
	}
	return svc, nil
}

// editService puts a copy of the record in its place, to be changed before
// anybody else sees it.
func (f *folding) editService(svc *Service) *Service {
	c := *svc
	f.s.Services[svc.Key] = &c
	f.touchService(svc.Key)
	return &c
}
