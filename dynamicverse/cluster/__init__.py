"""DynamicVerse on Kubernetes: Argo templates from jobs, submitting and watching Workflows."""
