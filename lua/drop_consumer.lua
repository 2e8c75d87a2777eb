-- drop_consumer: a runner that leaves a stream is no consumer of its group any more, unless something is pending for it.
--
-- KEYS    task_stream
-- ARGV    consumer
-- ANSWER  {dropped} | {pending}: what is pending would be lost with it

if #redis.call('XPENDING', task_stream, 'runners', '-', '+', 1, consumer) > 0 then return {'pending'} end
redis.call('XGROUP', 'DELCONSUMER', task_stream, 'runners', consumer)
return {'dropped'}
