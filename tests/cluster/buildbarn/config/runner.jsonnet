// bb_runner as it comes: runs commands where bb_worker laid their inputs.
{
  buildDirectoryPath: std.extVar('DIRECTORY') + '/build',
  grpcServers: [{ listenPaths: [std.extVar('DIRECTORY') + '/runner'], authenticationPolicy: { allow: {} } }],
}
