--[[
 DSA-110: 24 integrations x up to 768 channels, one baseline, XX and YY.
 After AOFlagger's generic strategy of 2021-03-30 (A. Offringa), tuned for few time samples:
 base threshold 1.2, 4 iterations, transient factor 0.8, frequency smoothing over 2 channels.
]]

aoflagger.require_min_version("3.0")

function execute(input)
  local base_threshold = 1.2
  local iteration_count = 4
  local threshold_factor_step = 2.0
  local transient_threshold_factor = 0.8
  local frequency_resize_factor = 2
  local time_resize_factor = 3
  local copy_of_input = input:copy()

  for _, polarization in ipairs(input:get_polarizations()) do
    local converted = input:convert_to_polarization(polarization):convert_to_complex("amplitude")
    local original = converted:copy()

    for i = 1, iteration_count - 1 do
      local factor = threshold_factor_step ^ (iteration_count - i)
      local level = factor * base_threshold
      aoflagger.sumthreshold_masked(converted, original, level, level * transient_threshold_factor, true, true)

      local channels = converted:copy()
      aoflagger.threshold_timestep_rms(converted, 3.5)
      aoflagger.threshold_channel_rms(channels, 3.0 * factor, true)
      converted:join_mask(channels)

      converted:set_visibilities(original)
      converted:join_mask(original)
      local smooth = aoflagger.downsample(converted, time_resize_factor, frequency_resize_factor, true)
      aoflagger.low_pass_filter(smooth, 21, 31, 2.5, 5.0)
      aoflagger.upsample(smooth, converted, time_resize_factor, frequency_resize_factor)
      local residual = original - converted
      residual:set_mask(converted)
      converted = residual
    end

    aoflagger.sumthreshold_masked(converted, original, base_threshold, base_threshold * transient_threshold_factor, true, true)
    converted:join_mask(original)
    input:set_polarization_data(polarization, converted:convert_to_complex("complex"))
  end

  aoflagger.scale_invariant_rank_operator_masked(input, copy_of_input, 0.2, 0.2)
  aoflagger.threshold_timestep_rms(input, 4.0)
  input:flag_nans()
end
