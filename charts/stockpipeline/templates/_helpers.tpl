{{/* Name of every object: the release's, which says stockpipeline in any case. */}}
{{- define "stockpipeline.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 40 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{/* Cluster-wide objects carry the namespace too, so that two releases never share one. */}}
{{- define "stockpipeline.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "stockpipeline.name" .) -}}
{{- end -}}

{{- define "stockpipeline.selector" -}}
app.kubernetes.io/name: stockpipeline-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "stockpipeline.labels" -}}
{{ include "stockpipeline.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image of ours: as set, or of the chart's version. Called with (list . "operator"). */}}
{{- define "stockpipeline.image" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- index $root.Values.images $name | default (printf "ghcr.io/stockpipeline/%s:%s" $name $root.Chart.AppVersion) -}}
{{- end -}}

{{/* What the operator may do to pipelines and their children. Whole, so that a Role and a ClusterRole never differ. */}}
{{- define "stockpipeline.rules" -}}
- apiGroups: [stockpipeline.io]
  resources: [stockpipelines]
  verbs: [get, list, watch]
- apiGroups: [stockpipeline.io]
  resources: [stockpipelines/status]
  verbs: [get, patch]
# An owner reference that blocks the owner's deletion needs this where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [stockpipeline.io]
  resources: [stockpipelines/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [secrets, configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
# What a broker or a database ended with, where only its log says so: a full disk.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# Pods of an older template are replaced by eviction, which heeds the disruption budgets.
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# The volumes of broker and database: they grow, and go when their node or member has left.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, patch, delete]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies, ingresses]
  verbs: [get, list, watch, create, patch, delete]
# Where the cluster has the Gateway API, and the Prometheus operator's kinds.
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
# Where the cluster has cert-manager.
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
