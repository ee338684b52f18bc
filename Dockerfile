# The controller's image: one static binary and nothing else.
#   make docker-build IMG=registry.example.com/opensandbox/controller:tag
FROM golang:1.26 AS build
ARG VERSION=dev
ARG TARGETOS
ARG TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api/ api/
COPY cmd/ cmd/
COPY internal/ internal/
COPY pkg/ pkg/
RUN CGO_ENABLED=0 GOOS=${TARGETOS:-linux} GOARCH=${TARGETARCH} \
    go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=${VERSION}" -o /out/controller ./cmd/controller

FROM scratch
COPY --from=build /out/controller /controller
COPY LICENSE THIRD_PARTY_NOTICES /licenses/
USER 65532:65532
ENTRYPOINT ["/controller"]
