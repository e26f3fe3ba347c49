package admin

import (
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// does is what a method does, as far as the record is concerned.
type does int

const (
	// looks: it is not on record.
	looks does = iota
	// showsMail gives out what is in messages.
	showsMail
	// changes something, or makes somebody else do it.
	changes
)

// rule is what stands for one method.
type rule struct {
	// least is the role that may call it.
	least adminv1.Role
	does  does
	// endless: it goes on until the caller ends it, so it gets no deadline.
	endless bool
}

const (
	viewer   = adminv1.Role_ROLE_VIEWER
	operator = adminv1.Role_ROLE_OPERATOR
	admins   = adminv1.Role_ROLE_ADMIN
)

// methods has all methods of the API. One that is not here nobody may call.
var methods = map[string]rule{
	adminv1.QueueService_ListMessages_FullMethodName:    {least: viewer},
	adminv1.QueueService_GetMessage_FullMethodName:      {least: viewer},
	adminv1.QueueService_GetContent_FullMethodName:      {least: operator, does: showsMail},
	adminv1.QueueService_RetryMessages_FullMethodName:   {least: operator, does: changes},
	adminv1.QueueService_HoldMessages_FullMethodName:    {least: operator, does: changes},
	adminv1.QueueService_ReleaseMessages_FullMethodName: {least: operator, does: changes},
	adminv1.QueueService_DeleteMessages_FullMethodName:  {least: operator, does: changes},
	adminv1.QueueService_BounceMessages_FullMethodName:  {least: operator, does: changes},

	adminv1.TraceService_FindTraces_FullMethodName:      {least: viewer},
	adminv1.TraceService_GetTrace_FullMethodName:        {least: viewer},
	adminv1.TraceService_GetShadowReport_FullMethodName: {least: viewer},
	adminv1.EventService_TailEvents_FullMethodName:      {least: viewer, endless: true},
	// Stages run for it, also those that call others.
	adminv1.PreviewService_Preview_FullMethodName: {least: operator},

	adminv1.RouteService_ListRoutes_FullMethodName:         {least: viewer},
	adminv1.RouteService_PauseRoute_FullMethodName:         {least: operator, does: changes},
	adminv1.RouteService_ResumeRoute_FullMethodName:        {least: operator, does: changes},
	adminv1.GrantService_ListGrants_FullMethodName:         {least: viewer},
	adminv1.GrantService_CreateGrant_FullMethodName:        {least: operator, does: changes},
	adminv1.GrantService_RevokeGrant_FullMethodName:        {least: operator, does: changes},
	adminv1.StatusService_GetStatus_FullMethodName:         {least: viewer},
	adminv1.StatisticsService_GetStatistics_FullMethodName: {least: viewer},

	adminv1.ArchiveService_ListArchived_FullMethodName: {least: viewer},
	adminv1.ArchiveService_GetArchived_FullMethodName:  {least: operator, does: showsMail},
	adminv1.DkimService_ListDkimKeys_FullMethodName:    {least: viewer},
	adminv1.DkimService_CreateDkimKeys_FullMethodName:  {least: admins, does: changes},
	adminv1.UserService_ListUsers_FullMethodName:       {least: viewer},
	adminv1.UserService_AddUser_FullMethodName:         {least: admins, does: changes},
	adminv1.UserService_SetPassword_FullMethodName:     {least: admins, does: changes},
	adminv1.UserService_DeleteUser_FullMethodName:      {least: admins, does: changes},

	adminv1.ConfigService_GetConfig_FullMethodName:     {least: viewer},
	adminv1.ConfigService_ListRevisions_FullMethodName: {least: viewer},
	adminv1.ConfigService_GetRevision_FullMethodName:   {least: viewer},
	// What is wrong with a text may tell of files that it names.
	adminv1.ConfigService_ValidateConfig_FullMethodName: {least: admins},
	adminv1.ConfigService_EditChain_FullMethodName:      {least: admins, does: changes},
	adminv1.ConfigService_ApplyConfig_FullMethodName:    {least: admins, does: changes},
	adminv1.ConfigService_RollbackConfig_FullMethodName: {least: admins, does: changes},

	adminv1.NodeService_ListNodes_FullMethodName: {least: viewer},
	// It puts a configuration in force.
	adminv1.NodeService_ReloadNode_FullMethodName: {least: admins, does: changes},
	adminv1.NodeService_DrainNode_FullMethodName:  {least: operator, does: changes},
	adminv1.NodeService_GetProfile_FullMethodName: {least: operator},

	adminv1.AccessService_GetAccess_FullMethodName: {least: viewer},
	adminv1.AccessService_ListAudit_FullMethodName: {least: admins},
}

const (
	healthPrefix     = "/grpc.health.v1.Health/"
	reflectionPrefix = "/grpc.reflection."
)

// ruleOf is the rule of a method; false: there is none, so nobody may call it. Health and the contracts are open to all
// that are known.
func ruleOf(method string) (rule, bool) {
	switch {
	case method == healthPrefix+"Watch":
		return rule{least: viewer, endless: true}, true
	case strings.HasPrefix(method, healthPrefix), strings.HasPrefix(method, reflectionPrefix):
		return rule{least: viewer}, true
	}
	r, ok := methods[method]
	return r, ok
}

// roles are those of the configuration.
var roles = map[config.Role]adminv1.Role{config.RoleViewer: viewer, config.RoleOperator: operator, config.RoleAdmin: admins}

// roleName is a role as the configuration writes it.
func roleName(r adminv1.Role) string {
	for name, role := range roles {
		if role == r {
			return string(name)
		}
	}
	return "none"
}

// allMethods are the names of all methods, sorted.
func allMethods() []string {
	var names []string
	for name := range methods {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
