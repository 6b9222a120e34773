package service

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/storage"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

// Reasons in google.rpc.ErrorInfo, for programs. The domain is errorDomain.
const (
	errorDomain = "quorumlb.io"
	// ReasonNotLeader: nothing was done; the call belongs to the leader.
	ReasonNotLeader = "NOT_LEADER"
	// ReasonUnknownOutcome: the change may or may not have been made; repeating it
	// is safe.
	ReasonUnknownOutcome = "UNKNOWN_OUTCOME"
	// ReasonReplaced: a newer process of the node has been admitted; exit.
	ReasonReplaced = "REPLACED"
	// ReasonNoSession: open a new session.
	ReasonNoSession = "NO_SESSION"
)

// withReason makes a status that programs can tell apart.
func withReason(code codes.Code, reason, text string, details ...protoadapt.MessageV1) error {
	st := status.New(code, text)
	details = append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain}}, details...)
	if d, err := st.WithDetails(details...); err == nil {
		st = d
	}
	return st.Err()
}

// reasonOf reads the reason of a status; empty when it has none of ours.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return info.GetReason()
		}
	}
	return ""
}

func isNotLeader(err error) bool { return err != nil && reasonOf(err) == ReasonNotLeader }

func errNoLeader() error {
	return withReason(codes.Unavailable, ReasonNotLeader,
		"the group has no leader: a majority of members must run and reach each other; see 'qlbctl status --stale'")
}

func errElsewhere(l consensus.Leadership) error {
	return withReason(codes.Unavailable, ReasonNotLeader, fmt.Sprintf("this member does not lead; %q at %s does", l.ID, l.Address))
}

func errUnreached(addr string, err error) error {
	return withReason(codes.Unavailable, ReasonNotLeader, fmt.Sprintf("the leader at %s cannot be reached: %v", addr, err))
}

func errUnknownOutcome(why string) error {
	return withReason(codes.Unavailable, ReasonUnknownOutcome,
		why+": the change may or may not have been made; look, or repeat the command, which is safe")
}

// invalid makes INVALID_ARGUMENT with the path of each field.
func invalid(text string, fields []decider.FieldError) error {
	st := status.New(codes.InvalidArgument, text)
	if d, err := st.WithDetails(badRequest(fields)); err == nil {
		st = d
	}
	return st.Err()
}

func invalidField(path, format string, args ...any) error {
	f := decider.FieldError{Path: path, Message: fmt.Sprintf(format, args...)}
	return invalid(f.String(), []decider.FieldError{f})
}

func badRequest(fields []decider.FieldError) *errdetails.BadRequest {
	br := &errdetails.BadRequest{}
	for _, f := range fields {
		br.FieldViolations = append(br.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Path, Description: f.Message})
	}
	return br
}

// fromDecider turns a refusal of the decider into a status that says what to do.
func fromDecider(err error) error {
	var (
		bad    *decider.InvalidError
		inUse  *decider.InUseError
		stale  *decider.StaleError
		absent *decider.NotFoundError
		pre    *decider.PreconditionError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &bad):
		return invalid(bad.Error(), bad.Fields)
	case errors.As(err, &inUse):
		return withDetails(codes.FailedPrecondition, inUse.Error(), badRequest(inUse.Fields))
	case errors.As(err, &stale):
		return withDetails(codes.FailedPrecondition, stale.Error(), badRequest(stale.Fields))
	case errors.As(err, &absent):
		return status.Error(codes.NotFound, absent.Error())
	case errors.As(err, &pre):
		return status.Error(codes.FailedPrecondition, pre.Error())
	case errors.Is(err, decider.ErrNotLeader), errors.Is(err, decider.ErrNotFounded):
		return withReason(codes.Unavailable, ReasonNotLeader, err.Error())
	case errors.Is(err, decider.ErrUnknownOutcome):
		return errUnknownOutcome("leadership was lost while the change was on its way")
	case errors.Is(err, decider.ErrReplaced):
		return withReason(codes.FailedPrecondition, ReasonReplaced, err.Error())
	case errors.Is(err, decider.ErrSessionClosed), errors.Is(err, decider.ErrNoSession):
		return withReason(codes.FailedPrecondition, ReasonNoSession, err.Error())
	case errors.Is(err, decider.ErrTooLarge):
		return status.Error(codes.ResourceExhausted, err.Error()+"; declare fewer resources at once")
	case errors.Is(err, decider.ErrClockJump):
		return status.Error(codes.FailedPrecondition, err.Error()+"; set its clock, or transfer leadership")
	case errors.Is(err, decider.ErrInternal):
		return status.Error(codes.Internal, err.Error()+"; nothing has changed; the leader's log says more")
	}
	return fromContext(err)
}

// fromLog turns an error of reading the log, or of changing the group, into a
// status.
func fromLog(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, consensus.ErrNotLeader), errors.Is(err, consensus.ErrTransferInProgress), errors.Is(err, consensus.ErrEnqueueTimeout):
		return withReason(codes.Unavailable, ReasonNotLeader, err.Error())
	case errors.Is(err, consensus.ErrLeadershipLost):
		return errUnknownOutcome("leadership was lost meanwhile")
	case errors.Is(err, consensus.ErrClosed), errors.Is(err, consensus.ErrStopped):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, consensus.ErrNoMember):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, consensus.ErrIncomplete):
		return status.Error(codes.OutOfRange, err.Error())
	}
	return fromContext(err)
}

// fromMembership turns an error of changing the group into a status.
func fromMembership(err error) error {
	if errors.Is(err, storage.ErrBadName) {
		return invalidField("id", "%v", err)
	}
	st := fromLog(err)
	if status.Code(st) == codes.Internal {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return st
}

func withDetails(code codes.Code, text string, details ...protoadapt.MessageV1) error {
	st := status.New(code, text)
	if d, err := st.WithDetails(details...); err == nil {
		st = d
	}
	return st.Err()
}

// fromContext keeps a status, and names the two ways in which a context ends.
func fromContext(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

// fromWatch tells a speaker what to do when its watch ends.
func fromWatch(err error) error {
	switch {
	case errors.Is(err, watch.ErrBehind), errors.Is(err, watch.ErrReset), errors.Is(err, watch.ErrClosed):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, watch.ErrTooSlow):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, watch.ErrReplaced):
		return withReason(codes.FailedPrecondition, ReasonReplaced, err.Error())
	case errors.Is(err, watch.ErrNoSession):
		return withReason(codes.FailedPrecondition, ReasonNoSession, err.Error())
	}
	return fromContext(err)
}
