# docker buildx bake -f images/docker-bake.hcl [IMAGE…]
# REPOSITORY: where the images are pushed (host, team and name of your registry)
variable "REPOSITORY" { default = "dynamicverse" }
variable "VERSION" { default = "0.1.0" }
variable "REVISION" { default = "" }
variable "CREATED" { default = "" }
# Pin the base by digest in production: BASE_IMAGE=python:3.11-slim-bookworm@sha256:…
variable "BASE_IMAGE" { default = "python:3.11-slim-bookworm" }
variable "TORCH" { default = "cuda" }  # or models, with the packages of the gpu preset
variable "NONCOMMERCIAL" { default = "no" }

group "default" {
  targets = ["image"]
}

target "image" {
  name = image
  matrix = {
    image = [
      "control", "ingest", "keyframes", "analysis", "segmentation", "tracks", "depth",
      "reconstruction", "captions", "report",
    ]
  }
  context    = "."
  dockerfile = "images/Dockerfile"
  target     = image
  platforms  = ["linux/amd64"]
  tags       = ["${REPOSITORY}/${image}:${VERSION}"]
  args = {
    BASE_IMAGE    = BASE_IMAGE
    TORCH         = TORCH
    NONCOMMERCIAL = NONCOMMERCIAL
  }
  labels = {
    "org.opencontainers.image.version"  = VERSION
    "org.opencontainers.image.revision" = REVISION
    "org.opencontainers.image.created"  = CREATED
    "org.opencontainers.image.licenses" = "Apache-2.0"
  }
  attest = [
    "type=sbom",
    "type=provenance,mode=max",
  ]
}
