package service

import (
	"slices"

	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/internal/pki"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// access tells who may call a method and where it is answered.
type access struct {
	kinds []pki.Kind
	// leader: a member that does not lead forwards the call.
	leader bool
	// offline: answered also by a member that has stopped serving because its
	// state differs from the majority's.
	offline bool
}

func (a access) allows(k pki.Kind) bool { return slices.Contains(a.kinds, k) }

var (
	anyone    = pki.Kinds()
	admins    = []pki.Kind{pki.KindAdmin}
	readers   = []pki.Kind{pki.KindAdmin, pki.KindViewer}
	speakers  = []pki.Kind{pki.KindSpeaker}
	members   = []pki.Kind{pki.KindMember}
	reflector = []pki.Kind{pki.KindAdmin, pki.KindViewer, pki.KindMember}
)

// methods is the whole table of what may be called. A method that is not in it
// is refused to everybody.
var methods = map[string]access{
	adminv1.AdminService_Apply_FullMethodName:              {kinds: admins, leader: true},
	adminv1.AdminService_Delete_FullMethodName:             {kinds: admins, leader: true},
	adminv1.AdminService_Get_FullMethodName:                {kinds: readers},
	adminv1.AdminService_Status_FullMethodName:             {kinds: readers, offline: true},
	adminv1.AdminService_Drain_FullMethodName:              {kinds: admins, leader: true},
	adminv1.AdminService_Undrain_FullMethodName:            {kinds: admins, leader: true},
	adminv1.AdminService_Move_FullMethodName:               {kinds: admins, leader: true},
	adminv1.AdminService_ForgetNode_FullMethodName:         {kinds: admins, leader: true},
	adminv1.AdminService_SetLeaseTimes_FullMethodName:      {kinds: admins, leader: true},
	adminv1.AdminService_SetRetention_FullMethodName:       {kinds: admins, leader: true},
	adminv1.AdminService_Probe_FullMethodName:              {kinds: admins}, // makes every speaker send frames
	adminv1.AdminService_EndQuarantine_FullMethodName:      {kinds: admins, leader: true},
	adminv1.AdminService_Events_FullMethodName:             {kinds: readers},
	adminv1.AdminService_SnapshotSave_FullMethodName:       {kinds: admins},
	adminv1.AdminService_SnapshotRestore_FullMethodName:    {kinds: admins}, // forwards after it has checked the upload
	adminv1.AdminService_AddMember_FullMethodName:          {kinds: admins, leader: true},
	adminv1.AdminService_RemoveMember_FullMethodName:       {kinds: admins, leader: true},
	adminv1.AdminService_TransferLeadership_FullMethodName: {kinds: admins, leader: true},
	adminv1.AdminService_Rebalance_FullMethodName:          {kinds: admins, leader: true},
	adminv1.AdminService_Version_FullMethodName:            {kinds: anyone, offline: true},

	speakerv1.SpeakerService_OpenSession_FullMethodName: {kinds: speakers, leader: true},
	speakerv1.SpeakerService_Heartbeat_FullMethodName:   {kinds: speakers},
	speakerv1.SpeakerService_Watch_FullMethodName:       {kinds: speakers},
	speakerv1.SpeakerService_Attach_FullMethodName:      {kinds: speakers},
	speakerv1.SpeakerService_Leave_FullMethodName:       {kinds: speakers, leader: true},

	memberv1.MemberService_Hello_FullMethodName:     {kinds: members, offline: true},
	memberv1.MemberService_Join_FullMethodName:      {kinds: members, leader: true},
	memberv1.MemberService_Pulse_FullMethodName:     {kinds: members, offline: true},
	memberv1.MemberService_FetchLog_FullMethodName:  {kinds: members},
	memberv1.MemberService_ReadIndex_FullMethodName: {kinds: members},
	memberv1.MemberService_Report_FullMethodName:    {kinds: members, offline: true},

	"/grpc.health.v1.Health/Check": {kinds: anyone, offline: true},
	"/grpc.health.v1.Health/Watch": {kinds: anyone, offline: true},
	"/grpc.health.v1.Health/List":  {kinds: anyone, offline: true},

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      {kinds: reflector, offline: true},
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {kinds: reflector, offline: true},
}

// uncovered lists the methods of a server that the table does not know. They
// would be refused to everybody, so a server that has one is not started.
func uncovered(info map[string]grpc.ServiceInfo) []string {
	var missing []string
	for service, si := range info {
		for _, m := range si.Methods {
			full := "/" + service + "/" + m.Name
			if _, ok := methods[full]; !ok {
				missing = append(missing, full)
			}
		}
	}
	slices.Sort(missing)
	return missing
}
