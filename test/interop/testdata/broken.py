"""A stage that answers what no stage may: the word after "broken" in the subject says what."""
import asyncio, re, sys
import grpc, labeler, stage_pb2 as pb, stage_pb2_grpc


def branch(verdict=pb.VERDICT_CONTINUE, **more):
    return pb.ProcessResponse(result=pb.Result(branch=pb.Branch(verdict=verdict, **more))).SerializeToString()


def edited(*splices):
    return branch(edits=pb.Edits(splices=[pb.Splice(offset=o, length=n, insert=b) for o, n, b in splices]))


ANSWERS = {
    "header": edited((0, 4, b"Moved")),
    "body": edited((1000, 4, b"else")),
    "beyond": edited((1 << 40, 1, b"")),
    "overlap": edited((0, 8, b""), (4, 8, b"")),
    "half": edited((0, 0, b"no header field")),
    "large": edited((0, 0, b"X-Large: " + b"x" * (6 << 20) + b"\r\n")),
    "unset": branch(verdict=pb.VERDICT_UNSPECIFIED),
    "verdict": branch(verdict=77),
    "envelope": branch(edits=pb.Edits(reverse_path=pb.ReversePathEdit(address="eve@example.org"))),
    "unknown": branch(edits=pb.Edits.FromString(b"\x7a\x01x")),
    "reject": branch(verdict=pb.VERDICT_REJECT),
    "garbage": b"\xff\xff\xff\xff",
}


async def process(requests, context):
    head = b""
    async for request in requests:
        head += request.chunk
    word = re.search(rb"^Subject: broken (\w+)", head, re.MULTILINE).group(1).decode()
    if word == "raises":
        raise RuntimeError("out of order")
    if word == "slow":
        await asyncio.sleep(600)
    if word != "silent":
        yield ANSWERS[word]


def add(stage, server):
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("stagecoach.stage.v1.StageService", {
        "Describe": grpc.unary_unary_rpc_method_handler(stage.Describe, pb.DescribeRequest.FromString, pb.DescribeResponse.SerializeToString),
        "Process": grpc.stream_stream_rpc_method_handler(process, pb.ProcessRequest.FromString),
    }),))


class Greedy(labeler.Labeler):
    """Says of itself that it does more than the configuration expects."""

    async def Describe(self, request, context):
        said = await super().Describe(request, context)
        said.traits.edits_body = True
        return said


greedy = sys.argv.pop() == "greedy"
labeler.INSTANCES.pop()
if not greedy:
    stage_pb2_grpc.add_StageServiceServicer_to_server = add
asyncio.run(labeler.main(Greedy() if greedy else labeler.Labeler()))
