"""A whole stage: it labels each message, and holds those whose subject speaks of a wire transfer."""
import asyncio, email.parser, email.policy, sys
import grpc, stage_pb2 as pb, stage_pb2_grpc

ADDRESS, PKI, *INSTANCES = sys.argv[1:]
CALLERS = {b"ingress", b"antivirus", b"disclaimer", b"archive", b"signer", b"admin"}


class Labeler(stage_pb2_grpc.StageServiceServicer):
    async def Describe(self, request, context):
        return pb.DescribeResponse(type="labeler", traits=pb.Traits(), instances=[pb.Instance(name=n) for n in INSTANCES])

    async def Process(self, requests, context):
        if not CALLERS & set(context.auth_context().get("x509_subject_alternative_name", ())):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this certificate may not call a stage")
        head, length, whole = b"", 0, False
        async for request in requests:  # begin, chunks, end
            head, length = head + request.chunk[: (1 << 20) - len(head)], length + len(request.chunk)
            whole = request.HasField("end") and request.end.length == length
        if not whole:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is not whole")
        header = email.parser.BytesHeaderParser(policy=email.policy.default).parsebytes(head)
        if "wire transfer" in " ".join(header.get_all("Subject", [])).lower():
            branch = pb.Branch(verdict=pb.VERDICT_QUARANTINE, reason="the subject speaks of a wire transfer")
        else:  # an offset and a length of 0: the field goes before all others
            edits = pb.Edits(splices=[pb.Splice(insert=b"X-Label: seen by labeler\r\n")])
            branch = pb.Branch(verdict=pb.VERDICT_CONTINUE, edits=edits)
        yield pb.ProcessResponse(result=pb.Result(branch=branch))


async def watch(request, context):  # grpc.health.v1.Health: b"\x08\x01" is SERVING, until the caller goes
    yield b"\x08\x01"
    await asyncio.Event().wait()


async def main(stage):
    key, certificate, ca = (open(f"{PKI}/{name}.pem", "rb").read() for name in ("labeler-key", "labeler", "ca"))
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 5 << 20)])
    stage_pb2_grpc.add_StageServiceServicer_to_server(stage, server)
    health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": grpc.unary_stream_rpc_method_handler(watch)})
    server.add_generic_rpc_handlers((health,))
    server.add_secure_port(ADDRESS, grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True))
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(Labeler()))
