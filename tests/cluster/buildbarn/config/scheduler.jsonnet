// bb_scheduler: a queue for whatever platform has workers.
{
  clientGrpcServers: [{ listenPaths: [std.extVar('SCHEDULER')], authenticationPolicy: { allow: {} } }],
  workerGrpcServers: [{ listenPaths: [std.extVar('WORKERS')], authenticationPolicy: { allow: {} } }],
  contentAddressableStorage: { grpc: { address: 'unix://' + std.extVar('STORAGE') } },
  maximumMessageSizeBytes: 4 * 1024 * 1024,
  executeAuthorizer: { allow: {} },
  modifyDrainsAuthorizer: { allow: {} },
  killOperationsAuthorizer: { allow: {} },
  actionRouter: {
    simple: {
      platformKeyExtractor: { action: {} },
      invocationKeyExtractors: [{ correlatedInvocationsId: {} }, { toolInvocationId: {} }],
      initialSizeClassAnalyzer: { defaultExecutionTimeout: '600s', maximumExecutionTimeout: '3600s' },
    },
  },
  platformQueueWithNoWorkersTimeout: '900s',
}
